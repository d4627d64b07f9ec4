"""What a reload replaces and what it leaves open: values, and of pools the one whose setting has changed."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fault_upstream import KEY, Connection, FaultUpstream
from lab import Lab

from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.daemon_and_database import DaemonAndDatabase
from harmonia_py.wiring.node import Node
from harmonia_py.wiring.pools import Pools
from harmonia_py.wiring.store_choice import choose_store

ABSENT = HashPart.parse("0" * 32)
# By the names of `Node`'s attributes.
POOLS = ("local", "metadata", "compressed", "compressed_files", "mirror", "upstreams", "importing")


class World:
    """One process, and the settings of a configuration over a real store and an upstream."""

    def __init__(self, lab: Lab, upstream: FaultUpstream, root: Path) -> None:
        self.pools = Pools()
        self.metrics = Metrics.alone()
        self.ports: list[int] = []
        upstream.default = self._answer
        self.upstream: dict[str, Any] = {"url": upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}
        self.settings: dict[str, Any] = {
            "virtual_nix_store": str(lab.store_dir),
            "real_nix_store": str(lab.real_store),
            "daemon_socket": str(lab.socket),
            "cache": {"directory": str(root / "kept")},
            "mirror": {"import": True},
            "upstream": [self.upstream],
        }

    async def _answer(self, connection: Connection) -> None:
        """404, and a note of which connection the question came by."""
        self.ports.append(connection.writer.get_extra_info("peername")[1])
        await connection.respond(b"", 404)

    async def load(self, *keys: SecretKey, **changed: Any) -> Node:
        config = msgspec.convert(self.settings | changed, Config)
        choice = choose_store(config)
        return await Node.open(config, list(keys), choice, self.pools, metrics=self.metrics, housekeeping=True)


@asynccontextmanager
async def world_of(lab: Lab, root: Path) -> AsyncIterator[World]:
    async with FaultUpstream() as upstream:
        world = World(lab, upstream, root)
        try:
            yield world
        finally:
            await world.pools.aclose()


def replaced(before: Node, after: Node) -> set[str]:
    return {name for name in POOLS if getattr(before, name) is not getattr(after, name)}


async def test_where_a_policy_hides_paths_the_daemon_alone_is_asked(daemon: Lab, tmp_path: Path) -> None:
    """A path that is hidden would be read from the database, one that is absent the daemon would be asked for."""
    async with world_of(daemon, tmp_path) as world:
        assert isinstance((await world.load()).metadata, DaemonAndDatabase)
        hiding = await world.load(policy={"serve": "ultimate"})
        assert isinstance(hiding.metadata, DaemonStore)
        assert isinstance((await world.load()).metadata, DaemonAndDatabase)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, set()),
        ({"priority": 7, "want_mass_query": False, "base_url": "https://x", "serve_files": False}, set()),
        # What is known of the local store is what the policy allows of it, and its database is read no more.
        ({"policy": {"serve": "ultimate"}}, {"metadata", "local", "compressed"}),
        ({"daemon_connections": 2}, {"metadata", "local", "compressed"}),
        ({"zstd": {"level": 5}}, {"compressed"}),
        ({"nix_log_dir": "/elsewhere"}, {"local", "compressed"}),
        ({"mirror": {"import": True, "negative_ttl": 1.0}}, {"mirror", "importing"}),
        ({"mirror": {"import": True, "budget": 3.0}}, {"upstreams", "mirror", "importing"}),
        ({"mirror": {"import": False}}, {"importing"}),
    ],
)
async def test_a_reload_replaces_the_pools_whose_settings_have_changed_and_no_others(
    daemon: Lab, tmp_path: Path, changed: dict[str, Any], expected: set[str]
) -> None:
    async with world_of(daemon, tmp_path) as world:
        before = await world.load()
        after = await world.load(**changed)
        assert replaced(before, after) == expected
        assert after.cache is not before.cache


async def test_a_signing_key_is_a_value(daemon: Lab, tmp_path: Path) -> None:
    async with world_of(daemon, tmp_path) as world:
        before = await world.load()
        after = await world.load(SecretKey.generate("new-1"))
        assert [key.name for key in after.cache.public_keys] == ["new-1"]
        # What is imported is signed as well.
        assert replaced(before, after) == {"importing"}


async def test_the_connections_to_an_upstream_outlast_its_keys_and_its_priority(daemon: Lab, tmp_path: Path) -> None:
    async with world_of(daemon, tmp_path) as world:
        before = await world.load()
        values = {"priority": 7, "public_keys": [str(SecretKey.generate("other-1").public_key)]}
        after = await world.load(upstream=[world.upstream | values])
        assert replaced(before, after) == {"upstreams", "mirror", "importing"}
        anew = await world.load(upstream=[world.upstream | {"stall_timeout": 3.0}])
        for node in (before, after, anew):
            assert await node.cache.narinfo(ABSENT) is None
        first, second, third = world.ports
        assert first == second, "a change of values has closed the connections"
        assert second != third, "a change of the pool's own setting has not"
        # What was asked before a reload is judged by the keys of before.
        panels = [node.upstreams for node in (before, after) if node.upstreams is not None]
        keys = [[key.name for key in panel.all[0].upstream.public_keys] for panel in panels]
        assert keys == [[KEY.name], ["other-1"]]


async def test_what_cannot_be_opened_leaves_everything_as_it_was(daemon: Lab, tmp_path: Path) -> None:
    async with world_of(daemon, tmp_path) as world:
        before = await world.load()
        with pytest.raises(ConfigError):
            await world.load(upstream=[world.upstream | {"token_file": str(tmp_path / "none")}], zstd={"level": 5})
        assert await before.cache.narinfo(daemon.closure.top.hash_part) is not None
        assert replaced(before, await world.load()) == set()


def test_sqlite_is_loaded_when_there_is_a_catalog_to_open() -> None:
    """A server of the local store that keeps nothing pays for no database."""
    program = "import sys, harmonia_py.wiring.node; assert 'sqlite3' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_a_catalog_that_root_makes_belongs_to_the_owner_of_the_directory(daemon: Lab, tmp_path: Path) -> None:
    """The service could not open what a command had made that an administrator ran as root."""
    kept = tmp_path / "kept"
    kept.mkdir()
    os.chown(kept, 1234, 4321)
    async with world_of(daemon, tmp_path) as world:
        await world.load()
    made = list((kept / ".catalog").rglob("*"))
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (kept / ".catalog", *made)} == {(1234, 4321)}
    assert made
