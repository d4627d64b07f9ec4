"""HTTPS by the server itself: what is shown, to whom, and how it is replaced."""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import prefork
import pytest
from certificates import Pair, make_certificate
from lab import Lab
from server import Server, settings_of

from harmonia_py.errors import ConfigError
from harmonia_py.server.certificate import Certificate

TIME_LIMIT = 30.0


class TlsServer(Server):
    """A server over HTTPS; `url` and `get` are not for it."""

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        return super().wait_for(re.compile(pattern.pattern.replace("http:", "https:")))


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_certificate(tmp_path, "one")


@pytest.fixture
def settings(pair: Pair) -> dict[str, Any]:
    return {"tls_cert_path": str(pair.chain), "tls_key_path": str(pair.key), "workers": 1, "virtual_nix_store": "/n/s"}


def status(server: Server, context: ssl.SSLContext) -> int:
    with contextlib.closing(HTTPSConnection("127.0.0.1", server.port, context=context, timeout=TIME_LIMIT)) as http:
        http.request("GET", "/health")
        return http.getresponse().status


def shows(server: Server, pair: Pair) -> bool:
    try:
        return status(server, pair.client()) == 200
    except ssl.SSLCertVerificationError:
        return False


def wait_until_it_shows(server: Server, pair: Pair) -> None:
    deadline = time.monotonic() + TIME_LIMIT
    while not shows(server, pair):
        assert time.monotonic() < deadline, server.output()
        time.sleep(0.02)


def test_a_real_client_substitutes_over_https_and_trusts_only_the_certificate(
    daemon: Lab, tmp_path: Path, pair: Pair
) -> None:
    keys = daemon.secret_key("tls-1")
    settings = settings_of(daemon, keys) | {"tls_cert_path": str(pair.chain), "tls_key_path": str(pair.key)}
    top = daemon.full(daemon.closure.top)
    other = make_certificate(tmp_path, "other")
    with TlsServer(tmp_path, daemon.env, settings) as server:
        url = f"https://127.0.0.1:{server.port}"
        copy = ("nix", "copy", "--from", url, "--option", "trusted-public-keys", keys.public, top)
        client = daemon.client("client")
        client.env["NIX_SSL_CERT_FILE"] = str(other.chain)
        assert client.run(*copy, check=False).returncode != 0
        client.env["NIX_SSL_CERT_FILE"] = str(pair.chain)
        client.run(*copy)
        assert client.run("nix-store", "--dump", str(client.real(daemon.closure.top))).stdout == daemon.dump(
            daemon.closure.top
        )


def test_versions_before_1_2_are_refused(lab: Lab, tmp_path: Path, settings: dict[str, Any], pair: Pair) -> None:
    with TlsServer(tmp_path, lab.env, settings) as server:
        for version, works in ((ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, True)):
            context = pair.client()
            context.minimum_version = context.maximum_version = version
            assert (status(server, context) == 200) == works
        # OpenSSL's client offers 1.1 at this level; ours must not take it.
        command = [
            "openssl",
            "s_client",
            "-connect",
            f"127.0.0.1:{server.port}",
            "-tls1_1",
            "-cipher",
            "ALL:@SECLEVEL=0",
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIME_LIMIT)
        assert done.returncode != 0
        assert b"Cipher is (NONE)" in done.stdout or b"alert protocol version" in done.stderr


def test_a_client_that_speaks_no_tls_harms_nobody(
    lab: Lab, tmp_path: Path, settings: dict[str, Any], pair: Pair
) -> None:
    with TlsServer(tmp_path, lab.env, settings | {"limits": {"header_timeout": 0.5}}) as server:
        with socket.create_connection(("127.0.0.1", server.port), TIME_LIMIT) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" not in plain.recv(100)
        with socket.create_connection(("127.0.0.1", server.port), TIME_LIMIT) as silent:
            # No handshake at all is cut as well.
            assert silent.recv(1) == b""
        assert shows(server, pair)
        assert "Traceback" not in server.output()


@pytest.mark.parametrize("asked", [True, False])
def test_a_new_certificate_is_shown_with_and_without_sighup(
    lab: Lab, tmp_path: Path, settings: dict[str, Any], pair: Pair, *, asked: bool
) -> None:
    old = Pair(tmp_path / "old.pem", tmp_path / "old.key")
    shutil.copy(pair.chain, old.chain)
    with TlsServer(tmp_path, lab.env, settings) as server:
        assert shows(server, old)
        new = make_certificate(tmp_path, "new")
        shutil.copy(new.chain, pair.chain)
        shutil.copy(new.key, pair.key)
        if asked:
            server.process.send_signal(signal.SIGHUP)
        wait_until_it_shows(server, new)
        assert not shows(server, old)


def test_a_reload_with_half_a_new_pair_keeps_the_old_one(
    lab: Lab, tmp_path: Path, settings: dict[str, Any], pair: Pair
) -> None:
    with TlsServer(tmp_path, lab.env, settings) as server:
        shutil.copy(make_certificate(tmp_path, "new").key, pair.key)
        server.process.send_signal(signal.SIGHUP)
        server_said = re.compile("the key is not that of the certificate")
        Server.wait_for(server, server_said)
        assert shows(server, pair)


class TestCertificate:
    def test_a_pair_that_does_not_fit_is_one_line_and_changes_nothing(self, tmp_path: Path, pair: Pair) -> None:
        certificate = Certificate(pair.chain, pair.key)
        assert not certificate.has_changed()
        pair.key.write_bytes(make_certificate(tmp_path, "other").key.read_bytes())
        assert certificate.has_changed()
        with pytest.raises(ConfigError) as caught:
            certificate.renew()
        assert str(caught.value) == (
            f"{pair.chain}, {pair.key}: tls_cert_path, tls_key_path: the key is not that of the certificate"
        )
        # And is said once.
        assert not certificate.has_changed()

    @pytest.mark.parametrize("broken", ["cert", "key"])
    def test_a_file_that_is_missing_or_garbage_ends_the_start_with_one_line(
        self, tmp_path: Path, pair: Pair, broken: str
    ) -> None:
        file = pair.chain if broken == "cert" else pair.key
        for content in (None, b"garbage"):
            file.unlink()
            if content is not None:
                file.write_bytes(content)
            settings = tmp_path / "harmonia.toml"
            settings.write_text(f'tls_cert_path = "{pair.chain}"\ntls_key_path = "{pair.key}"\nbind = "127.0.0.1:0"\n')
            done = prefork.run("-c", str(settings), cwd=tmp_path, env=os.environ)
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert (done.returncode, len(errors)) == (1, 1)
            assert str(file) in errors[0]
            assert f"tls_{broken}_path" in errors[0]
            assert "Traceback" not in done.stderr
            file.touch()
