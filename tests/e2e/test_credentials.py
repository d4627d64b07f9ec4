"""Who a mirror is to its upstream, read again on SIGHUP: a token or password that was replaced, and a certificate."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefork
import pytest
import tomli_w
from certificates import make_certificate
from lab import Keys, Lab
from reloading import reload
from server import Server, settings_of

from harmonia_py.cache.tokens import TokenHash

NOT_RELOADED = re.compile("not reloaded")


class TlsServer(Server):
    """A server over HTTPS; `url` and `get` are not for it."""

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        return super().wait_for(re.compile(pattern.pattern.replace("http:", "https:")))


@pytest.fixture
def upstream(daemon: Lab, keys: Keys, tmp_path: Path) -> Iterator[Server]:
    """A cache that is not public."""
    root = tmp_path / "upstream"
    root.mkdir()
    (root / "hashes").touch()
    with Server(root, daemon.env, settings_of(daemon, keys) | {"token_file": str(root / "hashes")}) as server:
        yield server


def allow_another(upstream: Server) -> str:
    """From now on it lets in who has this token, and nobody else."""
    token, line = TokenHash.generate("mirror")
    (upstream.root.parent / "hashes").write_text(f"{line}\n")
    reload(upstream)
    return token


def mirror_of(url: str, keys: Keys, lab: Lab, tmp_path: Path, **table: str) -> dict[str, Any]:
    nowhere = {"daemon_socket": str(tmp_path / "nowhere"), "nix_db_path": str(tmp_path / "nowhere")}
    one = {"url": url, "public_keys": [keys.public]} | table
    return nowhere | {
        "virtual_nix_store": lab.store_dir,
        "workers": 2,
        "upstream": [one],
        "mirror": {"negative_ttl": 0, "on_unknown": "error"},
    }


@pytest.mark.parametrize("kind", ["token_file", "netrc_file"])
def test_a_secret_that_was_replaced_opens_the_upstream_after_a_reload(
    daemon: Lab, keys: Keys, upstream: Server, tmp_path: Path, kind: str
) -> None:
    secret = tmp_path / "secret"

    def write(token: str) -> None:
        secret.write_text(token if kind == "token_file" else f"machine 127.0.0.1\nlogin x\npassword {token}\n")

    first, second, third = (
        f"/{one.hash_part}.narinfo"
        for one in (daemon.closure.top, daemon.closure.input1, daemon.closure.input2)
    )  # fmt: skip
    write(allow_another(upstream))
    settings = mirror_of(upstream.url, keys, daemon, tmp_path, **{kind: str(secret)})
    with Server(tmp_path, daemon.env, settings) as mirror:
        assert mirror.get(first).status == 200
        token = allow_another(upstream)
        assert mirror.get(second).status == 503
        write(token)
        reload(mirror)
        assert mirror.get(second).status == 200
        # One that is gone changes nothing.
        secret.unlink()
        mirror.process.send_signal(signal.SIGHUP)
        mirror.wait_for(NOT_RELOADED)
        assert mirror.get(third).status == 200


def test_a_file_that_is_missing_is_named_at_the_start_and_by_check_config(
    daemon: Lab, keys: Keys, upstream: Server, tmp_path: Path
) -> None:
    file = tmp_path / "harmonia.toml"
    nowhere = str(tmp_path / "nobody")
    file.write_text(tomli_w.dumps(mirror_of(upstream.url, keys, daemon, tmp_path, token_file=nowhere)))
    for verb in (["serve", "--bind", "127.0.0.1:0"], ["check-config"]):
        env = daemon.env | {"STATE_DIRECTORY": str(tmp_path), "CACHE_DIRECTORY": str(tmp_path)}
        done = prefork.run(*verb, "--config", str(file), cwd=tmp_path, env=env)
        assert done.returncode == 1
        assert done.stdout == ""
        fault = f"upstream {upstream.url.removeprefix('http://')}: {nowhere}: no such file or directory"
        # What is checked names the file as well, because it says all that is wrong in it.
        assert done.stderr.endswith(f"{file}: {fault}\n" if verb == ["check-config"] else f"error: {fault}\n")


def test_the_certificate_of_an_upstream_that_was_replaced_is_trusted_after_a_reload(
    daemon: Lab, keys: Keys, tmp_path: Path
) -> None:
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    root = tmp_path / "upstream"
    root.mkdir()
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(first.chain.read_bytes())
    tls = {"tls_cert_path": str(second.chain), "tls_key_path": str(second.key)}
    with TlsServer(root, daemon.env, settings_of(daemon, keys) | tls) as upstream:
        url = f"https://127.0.0.1:{upstream.port}"
        settings = mirror_of(url, keys, daemon, tmp_path, ca_file=str(trusted))
        with Server(tmp_path, daemon.env, settings) as mirror:
            narinfo = f"/{daemon.closure.top.hash_part}.narinfo"
            assert mirror.get(narinfo).status == 503
            trusted.write_bytes(second.chain.read_bytes())
            reload(mirror)
            assert mirror.get(narinfo).status == 200


def test_an_upstream_without_a_file_of_certificates_is_held_against_those_of_the_machine(
    daemon: Lab, keys: Keys, tmp_path: Path
) -> None:
    known, unknown = make_certificate(tmp_path, "known"), make_certificate(tmp_path, "unknown")
    root = tmp_path / "upstream"
    root.mkdir()
    tls = {"tls_cert_path": str(known.chain), "tls_key_path": str(known.key)}
    with TlsServer(root, daemon.env, settings_of(daemon, keys) | tls) as upstream:
        settings = mirror_of(f"https://127.0.0.1:{upstream.port}", keys, daemon, tmp_path)
        narinfo = f"/{daemon.closure.top.hash_part}.narinfo"
        for pair, status in ((unknown, 503), (known, 200)):
            place = tmp_path / str(status)
            place.mkdir()
            with Server(place, daemon.env | {"SSL_CERT_FILE": str(pair.chain)}, settings) as mirror:
                assert mirror.get(narinfo).status == status
