"""What a newcomer sees: started as it comes, with and without a daemon, and without any Nix."""

import asyncio
import os
import re
import shlex
from contextlib import aclosing
from pathlib import Path

import pytest
from catalogs import NOW
from lab import Lab
from nix_versions import INSTALLED, VERSIONS, NixVersion
from reloading import reload
from server import Server, settings_of
from waiting import wait_until

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.config.settings import Config
from harmonia_py.wiring.catalog import open_catalog

# Lines that can be copied into nix.conf as they are printed.
NIX_CONF_LINE = re.compile(r"^\s*((?:extra-)?(?:substituters|trusted-public-keys) = \S+)\s*$", re.MULTILINE)


def test_the_printed_lines_make_a_client_substitute(daemon: Lab, tmp_path: Path) -> None:
    with Server(tmp_path, daemon.env) as server:
        server.wait_for(re.compile("trusted-public-keys = .*\n"))
        lines = NIX_CONF_LINE.findall(server.output())
        assert len(lines) == 2, server.output()
        assert daemon.store_dir in server.output()
        client = daemon.client("client")
        client.env["NIX_CONFIG"] = "\n".join([*lines, "max-jobs = 0"])
        client.nix_store("--realise", daemon.full(daemon.closure.top))
        assert client.real(daemon.closure.input0).exists()


@pytest.mark.parametrize(
    "version",
    [
        pytest.param(version, id=version.name, marks=[] if version is INSTALLED else [pytest.mark.slow])
        for version in VERSIONS
    ],
)
def test_the_printed_command_substitutes_with_a_nix_as_it_comes(
    daemon: Lab, tmp_path: Path, version: NixVersion
) -> None:
    """No experimental feature, and no line in nix.conf."""
    if version.missing is not None:
        pytest.skip(version.missing)
    with Server(tmp_path, daemon.env) as server:
        printed = server.wait_for(re.compile(r"^  (nix-store --realise \S+ .*)\n", re.MULTILINE))[1]
        command = shlex.split(printed.replace("/nix/store/…", daemon.full(daemon.closure.top)))
        client = daemon.client("client")
        client.env = version.wrap(client.env, tmp_path)
        client.env["NIX_CONFIG"] = "substituters =\nexperimental-features =\nmax-jobs = 0"
        client.run(*command)
        assert client.real(daemon.closure.input0).exists()


def make_cache(config: Config, name: str) -> None:
    """Make a cache as a command does, which makes the catalog as well."""

    async def make() -> None:
        async with aclosing(await open_catalog(config)) as catalog:
            await catalog.caches.create(CacheName(name), CacheSettings(), declared=False, now=NOW)

    asyncio.run(make())


def test_the_generated_key_is_private_and_kept(daemon: Lab, tmp_path: Path) -> None:
    printed = []
    for _start in range(2):
        with Server(tmp_path, daemon.env) as server:
            printed.append(server.wait_for(re.compile("trusted-public-keys = (.*)\n")).group(1))
            files = [file for file in (server.root / "state").rglob("*") if file.is_file()]
            assert [file.stat().st_mode & 0o777 for file in files] == [0o600]
    assert printed[0] == printed[1]


@pytest.mark.default_backing
def test_a_configuration_file_does_not_end_signing(daemon: Lab, tmp_path: Path) -> None:
    """With a file, even that which check-config had printed, nothing was signed any more from the next restart on."""
    target = f"/{daemon.closure.top.hash_part}.narinfo"
    with Server(tmp_path, daemon.env) as server:
        signed = server.get(target).body
        assert b"\nSig: " in signed
    settings = settings_of(daemon)
    del settings["sign"]
    assert settings["sign_key_paths"] == []
    with Server(tmp_path, daemon.env, settings) as server:
        assert server.get(target).body == signed
        reload(server, settings | {"priority": 7})
        assert server.get(target).body == signed
        reload(server, settings | {"sign": False})
        assert b"\nSig: " not in server.get(target).body
    with Server(tmp_path, daemon.env, settings | {"sign": False}) as server:
        assert b"\nSig: " not in server.get(target).body


@pytest.mark.default_backing
def test_a_store_that_comes_after_the_server_is_found(daemon: Lab, tmp_path: Path) -> None:
    """A server that was started before Nix was installed answered 404 until it was reloaded, and did not say so."""
    later = tmp_path / "later"
    settings = settings_of(daemon) | {"real_nix_store": f"{later}/nix/store", "daemon_socket": f"{later}/daemon.socket"}
    target = f"/{daemon.closure.top.hash_part}.narinfo"
    with Server(tmp_path, daemon.env, settings) as server:
        assert server.get(target).status == 404
        assert server.get("/ready").status == 503
        assert "looked for every few seconds" in server.output()
        later.symlink_to(daemon.root)
        server.wait_for(re.compile("the store is here now: .*, through the nix-daemon"))
        # Each worker looks for itself.
        for _ in range(20):
            wait_until(lambda: server.get(target).status == 200)
        assert server.get("/ready").status == 200


def test_a_cache_that_clients_push_to_is_ready_where_there_is_no_nix(daemon: Lab, tmp_path: Path) -> None:
    """`/ready` of each replica of container/replicas was 503 for ever, and doctor told it to install Nix."""
    nowhere = {"real_nix_store": str(tmp_path / "store"), "daemon_socket": str(tmp_path / "socket")}
    with Server(tmp_path, daemon.env, settings_of(daemon) | nowhere | {"caches": {"team": {}}}) as server:
        assert server.get("/ready").status == 200
        assert "no Nix here" not in server.output()
        assert server.get(f"/{daemon.closure.top.hash_part}.narinfo").status == 404
        # A store may come all the same.
        Path(nowhere["real_nix_store"]).symlink_to(daemon.real_store)
        Path(nowhere["daemon_socket"]).symlink_to(daemon.socket)
        server.wait_for(re.compile("the store is here now: .*, through the nix-daemon"))


@pytest.mark.default_backing
def test_the_first_cache_that_a_command_makes_is_ready_where_there_is_no_nix(daemon: Lab, tmp_path: Path) -> None:
    """`/ready` was 503 for ever after `harmonia-py cache create team`, while `/team/nix-cache-info` was 200."""
    nowhere = {"real_nix_store": str(tmp_path / "store"), "daemon_socket": str(tmp_path / "socket")}
    settings = settings_of(daemon) | nowhere | {"state_directory": str(tmp_path)}
    with Server(tmp_path, daemon.env, settings) as server:
        assert server.get("/ready").status == 503
        make_cache(Config(state_directory=str(tmp_path)), "team")
        wait_until(lambda: server.get("/ready").status == 200)


def test_a_cache_is_no_store_that_has_come(daemon: Lab, tmp_path: Path) -> None:
    """The log said `the store is here now: /nix/store, none` when a command had made the first cache."""
    nowhere = {"real_nix_store": str(tmp_path / "store"), "daemon_socket": str(tmp_path / "socket")}
    settings = settings_of(daemon) | nowhere | {"state_directory": str(tmp_path), "workers": 1}
    with Server(tmp_path, daemon.env, settings) as server:
        make_cache(Config(state_directory=str(tmp_path)), "team")
        # It takes a token. A catalog is looked for after the store, so that the store has been looked for by then.
        wait_until(lambda: server.get("/team/nix-cache-info").status == 401)
        Path(nowhere["real_nix_store"]).symlink_to(daemon.real_store)
        Path(nowhere["daemon_socket"]).symlink_to(daemon.socket)
        server.wait_for(re.compile("the store is here now: .*, through the nix-daemon"))
        assert server.output().count("the store is here now") == 1


def test_a_chroot_store_without_a_daemon_is_served_from_its_database(chroot_lab: Lab, tmp_path: Path) -> None:
    keys = chroot_lab.secret_key("e2e-1")
    settings = {
        "virtual_nix_store": "/nix/store",
        "real_nix_store": str(chroot_lab.real_store),
        "nix_db_path": str(chroot_lab.database),
        "daemon_socket": str(tmp_path / "nobody-listens"),
        "sign_key_paths": [str(keys.secret_file)],
        "workers": 1,
    }
    with Server(tmp_path, chroot_lab.env, settings) as server:
        client = chroot_lab.client("client")
        options = ("--option", "substituters", server.url, "--option", "trusted-public-keys", keys.public)
        client.nix_store("--realise", chroot_lab.full(chroot_lab.closure.top), *options)
        client.nix_store("--verify", "--check-contents")
        assert (client.real(chroot_lab.closure.top) / "foobar").read_text() == "FOOBAR\n"
        assert client.real(chroot_lab.closure.input0).exists()


def test_a_store_without_a_daemon_is_served_without_any_configuration(lab: Lab, tmp_path: Path) -> None:
    with Server(tmp_path, lab.env) as server:
        narinfo = server.get(f"/{lab.closure.top.hash_part}.narinfo")
        assert narinfo.status == 200
        assert f"StorePath: {lab.full(lab.closure.top)}\n" in narinfo.body.decode()
        assert "\nSig: " in narinfo.body.decode()


def test_where_there_is_no_nix_it_says_so_in_one_line_and_answers(tmp_path: Path) -> None:
    nowhere = tmp_path / "nix" / "store"
    env = {name: value for name, value in os.environ.items() if not name.startswith("NIX_")}
    env |= {"NIX_STORE_DIR": str(nowhere), "NIX_DAEMON_SOCKET_PATH": str(tmp_path / "nobody-listens")}
    with Server(tmp_path, env) as server:
        assert server.get("/health").status == 200
        cache_info = server.get("/nix-cache-info")
        assert cache_info.status == 200
        assert f"StoreDir: {nowhere}\n" in cache_info.body.decode()
        # Nix would remember "absent" for an hour; but nothing is more absent than a store that is not there.
        assert server.get(f"/{'0' * 32}.narinfo").status == 404
        complaints = [line for line in server.output().splitlines() if "warn" in line.lower()]
        assert len(complaints) == 1, server.output()
        assert "Traceback" not in server.output()
