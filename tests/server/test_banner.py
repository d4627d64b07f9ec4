"""What a person reads at the start is enough to configure a client."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harmonia_py.config.settings import Config
from harmonia_py.config.upstream_tables import Upstream
from harmonia_py.nix.signing import SecretKey
from harmonia_py.server.banner import banner
from harmonia_py.server.listen import Listener, open_listeners
from harmonia_py.wiring.store_choice import StoreChoice, Way

DAEMON = StoreChoice(Way.DAEMON, "through the nix-daemon at /socket")


@pytest.fixture
def listener() -> Iterator[Listener]:
    (listener,) = open_listeners(["[::]:0" if socket.has_dualstack_ipv6() else "0.0.0.0:0"], {})
    with listener.socket:
        yield listener


def test_it_has_the_lines_of_a_clients_nix_conf(listener: Listener) -> None:
    """It said `localhost`, with the advice to put another name there."""
    keys = [SecretKey.generate(name).public_key for name in ("a-1", "b-1")]
    text = banner(Config(), DAEMON, [listener], keys, "server")
    assert text.endswith("\n")
    lines = text.splitlines()
    assert "  store      /nix/store, through the nix-daemon at /socket" in lines
    assert f"  signed by  {keys[0]}" in lines
    assert f"             {keys[1]}" in lines
    assert "In a client's nix.conf:" in lines
    url = listener.url.replace("localhost", "server")
    assert f"  extra-substituters = {url}" in lines
    assert f"  extra-trusted-public-keys = {keys[0]} {keys[1]}" in lines
    assert lines[-1] == (
        f"  nix-store --realise /nix/store/… --option extra-substituters {url}"
        f" --option extra-trusted-public-keys '{keys[0]} {keys[1]}'"
    )


def test_what_only_this_machine_can_reach_is_said_to_be_so(listener: Listener) -> None:
    (local,) = open_listeners(["127.0.0.1:0"], {})
    with local.socket:
        alone = banner(Config(), DAEMON, [local], [], "server")
        assert "In a client's nix.conf, on this machine alone:" in alone
        assert f"  extra-substituters = {local.url}\n" in alone
        both = banner(Config(), DAEMON, [local, listener], [], "server")
    assert "on this machine alone" not in both
    assert "  extra-substituters = http://server:" in both


def test_a_mirror_that_does_not_sign_gives_the_keys_of_its_upstreams(listener: Listener) -> None:
    """A client that trusted nothing but what it was told refused every path."""
    key = SecretKey.generate("up-1").public_key
    config = Config(
        upstream=[Upstream(url="https://cache.nixos.org"), Upstream(url="https://up", public_keys=[str(key)])]
    )
    lines = banner(config, DAEMON, [listener], [], "server").splitlines()
    assert "  mirrors    https://cache.nixos.org" in lines
    assert "             https://up" in lines
    (told,) = [line for line in lines if line.startswith("  extra-trusted-public-keys = ")]
    assert told.split()[2:] == ["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", str(key)]
    # What it signs itself carries its own signature, whoever signed it before.
    own = SecretKey.generate("own-1").public_key
    assert f"  extra-trusted-public-keys = {own}\n" in banner(config, DAEMON, [listener], [own], "server")


def test_a_cache_that_is_not_public_tells_of_netrc(listener: Listener) -> None:
    """Its clients got 401, and nothing said what to do."""
    text = banner(Config(token_file="/tokens"), DAEMON, [listener], [], "server")
    assert "netrc-file" in text
    assert "\n  machine server login nix password TOKEN\n" in text
    assert "netrc" not in banner(Config(), DAEMON, [listener], [], "server")


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
    text = banner(Config(), DAEMON, [Listener(listener.socket, "https")], [], "server")
    assert "extra-substituters = https://server:" in text
