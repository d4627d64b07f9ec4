"""The configurations that the documentation gives for nginx and Caddy, with the real ones and a real client."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Keys, Lab
from ports import free_port
from server import Server, settings_of

HOW_TO = Path(__file__).parent.parent.parent / "docs/how-to"
TIME_LIMIT = 30.0
BIG_SIZE = 24 * 1024 * 1024

NGINX = """\
daemon off;
user root;
pid {root}/pid;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  {server}
}}
"""
CADDY = """\
{{
    admin off
    auto_https disable_redirects
    storage file_system {root}
}}
{server}
"""


@dataclass(frozen=True)
class Proxy:
    url: str
    certificate: Path

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, Mapping[str, str], bytes]:
        context = ssl.create_default_context(cafile=self.certificate)
        request = urllib.request.Request(self.url + path, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=TIME_LIMIT, context=context) as response:
            return response.status, response.headers, response.read()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
        timeout=TIME_LIMIT,
    )
    return folder / "cert.pem"


@pytest.fixture
def keys(daemon: Lab) -> Keys:
    return daemon.secret_key("behind-1")


@pytest.fixture
def server(daemon: Lab, keys: Keys, tmp_path: Path) -> Iterator[Server]:
    settings = settings_of(daemon, keys) | {"limits": {"trusted_proxies": ["127.0.0.1"]}}
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def _nginx(root: Path, port: int, behind: int, certificate: Path) -> tuple[list[str], Path]:
    text = (HOW_TO / "nginx.conf").read_text()
    for theirs, ours in {
        "127.0.0.1:5000": f"127.0.0.1:{behind}",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "    listen [::]:443 ssl;\n": "",
        "cache.example.org;": "localhost;",
        "/etc/ssl/cache.example.org.pem": str(certificate),
        "/etc/ssl/private/cache.example.org.key": str(certificate.with_name("key.pem")),
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    file = root / "nginx.conf"
    file.write_text(NGINX.format(root=root, server=text))
    return ["nginx", "-e", str(root / "errors"), "-c", str(file)], root / "errors"


def _caddy(root: Path, port: int, behind: int, certificate: Path) -> tuple[list[str], Path]:
    text = (HOW_TO / "Caddyfile").read_text()
    ours = f"https://localhost:{port} {{\n\ttls {certificate} {certificate.with_name('key.pem')}\n"
    text = text.replace("cache.example.org {\n", ours).replace("127.0.0.1:5000", f"127.0.0.1:{behind}")
    file = root / "Caddyfile"
    file.write_text(CADDY.format(root=root, server=text))
    return ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"], root / "errors"


@pytest.fixture(params=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest, server: Server, certificate: Path, tmp_path: Path) -> Iterator[Proxy]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    root, port = tmp_path / "proxy", free_port()
    root.mkdir()
    command, errors = {"nginx": _nginx, "caddy": _caddy}[request.param](root, port, server.port, certificate)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(root)}
    with errors.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)
    try:
        deadline = time.monotonic() + TIME_LIMIT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), TIME_LIMIT):
                break
            assert process.poll() is None, errors.read_text()
            assert time.monotonic() < deadline, errors.read_text()
            time.sleep(0.01)
        yield Proxy(f"https://localhost:{port}", certificate)
    finally:
        process.terminate()
        process.wait(TIME_LIMIT)
        print(errors.read_text())


def test_a_client_gets_a_closure_through_it(daemon: Lab, keys: Keys, proxy: Proxy) -> None:
    client = daemon.client("client")
    client.env["NIX_SSL_CERT_FILE"] = str(proxy.certificate)
    options = ("--option", "substituters", proxy.url, "--option", "trusted-public-keys", keys.public)
    client.nix_store("--realise", daemon.full(daemon.closure.top), *options)
    client.nix_store("--verify", "--check-contents")


def test_it_changes_no_byte_and_no_range(daemon: Lab, server: Server, proxy: Proxy) -> None:
    file = daemon.root / "big"
    file.write_bytes(bytes(range(256)) * (BIG_SIZE // 256))
    path = daemon.add(file)
    direct = server.get(f"/nar/{path.hash_part}.nar")
    status, headers, body = proxy.get(f"/nar/{path.hash_part}.nar")
    assert (status, body) == (200, direct.body)
    assert headers["ETag"] == direct.headers["ETag"]
    status, headers, body = proxy.get(f"/nar/{path.hash_part}.nar", {"Range": "bytes=4000000-4000999"})
    assert (status, body) == (206, direct.body[4_000_000:4_001_000])
    assert headers["Content-Range"] == f"bytes 4000000-4000999/{len(direct.body)}"


def test_what_is_absent_is_absent_and_not_an_error(proxy: Proxy) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        proxy.get("/00000000000000000000000000000000.narinfo")
    with raised.value as answer:
        assert answer.code == 404
        assert answer.headers["Cache-Control"] == "no-store"


def test_pages_name_the_url_that_the_visitor_used(proxy: Proxy) -> None:
    page = proxy.get("/", {"Accept": "text/html"})[2].decode()
    # Behind nginx `$host` is without the port, which is the usual one.
    assert "https://localhost" in page
    assert "http://localhost" not in page
    assert "http://127.0.0.1" not in page


def test_a_listing_is_what_it_is_without(daemon: Lab, server: Server, proxy: Proxy) -> None:
    path = f"/{daemon.closure.top.hash_part}.ls"
    assert json.loads(proxy.get(path)[2]) == json.loads(server.get(path).body)
