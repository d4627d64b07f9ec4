"""Real clients of a cache that is not public, of one that codes what it sends, and behind limits."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from lab import Client, Keys, Lab
from nix_versions import INSTALLED, VERSIONS, NixVersion
from reloading import reload
from server import Server, settings_of

from harmonia_py.cache.tokens import TokenHash
from harmonia_py.config.token_file import add_token

VERSION_PARAMETERS = [
    pytest.param(version, id=version.name, marks=[] if version is INSTALLED else [pytest.mark.slow])
    for version in VERSIONS
]


@pytest.fixture
def client(daemon: Lab, version: NixVersion, tmp_path: Path) -> Client:
    if version.missing is not None:
        pytest.skip(version.missing)
    client = daemon.client("client")
    client.env = version.wrap(client.env, tmp_path)
    return client


def copy(client: Client, url: str, keys: Keys, path: str, *options: str) -> bool:
    command = ("nix", "copy", "--from", url, "--option", "trusted-public-keys", keys.public, *options, path)
    return client.run(*command, check=False).returncode == 0


@pytest.mark.parametrize("version", VERSION_PARAMETERS)
def test_a_client_gets_in_with_its_netrc_and_without_it_not(
    daemon: Lab, keys: Keys, client: Client, tmp_path: Path
) -> None:
    file, netrc = tmp_path / "tokens", tmp_path / "netrc"
    token, line = TokenHash.generate("laptop")
    add_token(file, line)
    netrc.write_text(f"machine 127.0.0.1\nlogin anybody\npassword {token}\n")
    settings = settings_of(daemon, keys) | {"token_file": str(file)}
    top = daemon.full(daemon.closure.top)
    with Server(tmp_path, daemon.env, settings) as server:
        assert not copy(client, server.url, keys, top)
        client.forget()
        assert copy(client, server.url, keys, top, "--option", "netrc-file", str(netrc))
        assert client.real(daemon.closure.top).exists()
        # Taken out of the file, it opens nothing after a reload.
        authorization = {"Authorization": f"Bearer {token}"}
        narinfo = f"/{daemon.closure.top.hash_part}.narinfo"
        for _ in range(4):
            assert server.get(narinfo, authorization).status == 200
        file.write_text(str(TokenHash.generate("other")[1]))
        reload(server)
        for _ in range(4):
            assert server.get(narinfo, authorization).status == 401
            assert server.get("/health").status == 200


@pytest.mark.parametrize("version", VERSION_PARAMETERS)
@pytest.mark.parametrize(
    "settings", [{}, {"compression": "none", "enable_compression": True}, {"enable_compression": False}]
)
def test_a_closure_arrives_whatever_is_coded(
    daemon: Lab, keys: Keys, client: Client, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Nix 2.8 accepts no coding, and newer ones all that we have."""
    top = daemon.closure.top
    with Server(tmp_path, daemon.env, settings_of(daemon, keys) | settings) as server:
        assert copy(client, server.url, keys, daemon.full(top))
        assert client.run("nix-store", "--dump", str(client.real(top))).stdout == daemon.dump(top)
        client.nix_store("--verify", "--check-contents")
        assert "FOO-log-line" in client.nix("log", "--store", server.url, daemon.full(top))
        nar = server.get(f"/nar/{top.hash_part}.nar", {"Accept-Encoding": "zstd"})
        coded = settings.get("enable_compression", True)
        assert nar.headers["Content-Encoding"] == ("zstd" if coded else None)


def test_who_offers_nars_as_they_are_sends_them_so_unless_told_otherwise(daemon: Lab, tmp_path: Path) -> None:
    """A download that is coded cannot be resumed by a client."""
    with Server(tmp_path, daemon.env, settings_of(daemon) | {"compression": "none"}) as server:
        accept = {"Accept-Encoding": "zstd, gzip"}
        nar = server.get(f"/nar/{daemon.closure.top.hash_part}.nar", accept)
        assert (nar.headers["Content-Encoding"], nar.headers["Accept-Ranges"]) == (None, "bytes")
        assert server.get("/", accept).headers["Content-Encoding"] == "zstd"


def test_a_client_that_asks_too_often_is_told_so_by_all_workers_together(daemon: Lab, tmp_path: Path) -> None:
    limits = {"requests_per_second": 0.01, "burst": 6}
    with Server(tmp_path, daemon.env, settings_of(daemon) | {"limits": limits}) as server:
        statuses = [server.get("/nix-cache-info").status for _ in range(10)]
        assert statuses == [200] * 6 + [429] * 4


def test_a_group_of_a_proxy_reaches_the_unix_socket(daemon: Lab, tmp_path: Path) -> None:
    path = tmp_path / "run" / "cache.sock"
    settings = settings_of(daemon) | {"unix_socket_mode": "0660", "bind": "127.0.0.1:0"}
    with Server(tmp_path, daemon.env, settings, "--bind", f"unix:{path}") as server:
        assert path.stat().st_mode & 0o777 == 0o660
        assert re.search(f"unix:{re.escape(str(path))}", server.output())
        assert os.access(path, os.R_OK)
