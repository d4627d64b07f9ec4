"""What a person reads at the start is enough to configure a client."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonia_py.banner import banner
from harmonia_py.config import Config
from harmonia_py.listen import Listener, open_listeners
from harmonia_py.nix.signing import SecretKey
from harmonia_py.store_choice import StoreChoice, Way

DAEMON = StoreChoice(Way.DAEMON, "through the nix-daemon at /socket")


@pytest.fixture
def listener() -> Iterator[Listener]:
    (listener,) = open_listeners(["[::]:0" if socket.has_dualstack_ipv6() else "0.0.0.0:0"], {})
    with listener.socket:
        yield listener


def test_it_has_the_lines_of_a_clients_nix_conf(listener: Listener) -> None:
    keys = [SecretKey.generate(name).public_key for name in ("a-1", "b-1")]
    text = banner(Config(), DAEMON, [listener], keys)
    assert text.endswith("\n")
    lines = text.splitlines()
    assert "  store      /nix/store, through the nix-daemon at /socket" in lines
    assert f"  signed by  {keys[0]}" in lines
    assert f"             {keys[1]}" in lines
    assert "In a client's nix.conf, with this machine's name for localhost:" in lines
    assert f"  extra-substituters = {listener.url}" in lines
    assert f"  extra-trusted-public-keys = {keys[0]} {keys[1]}" in lines


def test_the_url_that_clients_use_is_shown_when_it_is_known(listener: Listener) -> None:
    lines = banner(Config(base_url="https://cache.example"), DAEMON, [listener], []).splitlines()
    assert "In a client's nix.conf:" in lines
    assert "  extra-substituters = https://cache.example" in lines
    assert not any("extra-trusted-public-keys" in line for line in lines)
    assert any("no key: " in line for line in lines)


def test_where_the_files_are_is_shown_when_that_is_elsewhere(listener: Listener) -> None:
    config = Config(real_nix_store="/guest/nix/store")
    assert "files in /guest/nix/store" in banner(config, DAEMON, [listener], [])
    nothing = banner(config, StoreChoice(Way.NONE, "none", "no Nix here"), [listener], [])
    assert "  store      none\n" in nothing


def test_a_unix_socket_alone_is_for_a_proxy_and_has_no_lines_for_clients(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (listener,) = open_listeners([f"unix:{path}"], {})
    with listener.socket:
        text = banner(Config(), DAEMON, [listener], [])
    assert f"serves at unix:{path}" in text
    assert "nix.conf" not in text


def test_https_is_shown_as_such(listener: Listener) -> None:
    text = banner(Config(), DAEMON, [Listener(listener.socket, "https")], [])
    assert "extra-substituters = https://localhost:" in text
