"""Which way to the store is chosen, and what is said when it is not the usual one."""

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from catalogs import NOW
from nobody import as_nobody, as_root

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.config.cache_table import Cache
from harmonia_py.config.oidc_table import Oidc, OidcRule
from harmonia_py.config.settings import Config
from harmonia_py.config.storage_tables import Database
from harmonia_py.config.tables import Attic
from harmonia_py.config.upstream_tables import Upstream
from harmonia_py.wiring.catalog import catalog_file, open_catalog
from harmonia_py.wiring.store_choice import Lack, Way, choose_store, lack_of_store

RULE = OidcRule(claims={"sub": "repo:acme/x"}, caches=["team"], allow=["push"])


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {"real_nix_store": str(tmp_path / "nix/store"), "daemon_socket": str(tmp_path / "socket")}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "nix/var/nix/db/db.sqlite"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        yield sock


@pytest.mark.usefixtures("daemon", "database")
def test_the_daemon_is_asked_where_one_answers(settings: dict[str, Any]) -> None:
    choice = choose_store(Config(**settings))
    assert (choice.way, choice.warning) == (Way.DAEMON, None)
    assert choice.words == f"through the nix-daemon at {settings['daemon_socket']}"


@pytest.mark.usefixtures("daemon")
def test_a_database_that_was_named_is_read_although_a_daemon_answers(settings: dict[str, Any], tmp_path: Path) -> None:
    """The daemon is that of another store."""
    choice = choose_store(Config(**settings, nix_db_path=str(tmp_path / "other.sqlite")))
    assert (choice.way, choice.warning) == (Way.DATABASE, None)
    assert choice.words == f"through the database {tmp_path / 'other.sqlite'}"


def test_the_database_is_read_where_no_daemon_answers(settings: dict[str, Any], database: Path) -> None:
    choice = choose_store(Config(**settings))
    assert (choice.way, choice.warning) == (Way.DATABASE, None)
    assert choice.words == (f"through the database {database}, as no nix-daemon answers (no such file or directory)")


def test_a_daemon_that_is_down_is_waited_for_where_there_is_nothing_else(
    settings: dict[str, Any], daemon: socket.socket
) -> None:
    daemon.close()
    choice = choose_store(Config(**settings))
    assert choice.way is Way.DAEMON
    assert choice.warning == (
        f"the nix-daemon at {settings['daemon_socket']} does not answer (connection refused); "
        "requests get 503 until it does"
    )


def test_where_there_is_no_nix_that_is_said_in_one_line(settings: dict[str, Any]) -> None:
    choice = choose_store(Config(**settings))
    assert choice.way is Way.NONE
    assert choice.warning is not None
    assert choice.warning.startswith("no Nix here: ")
    assert "\n" not in choice.warning


@pytest.mark.parametrize(
    "what",
    [
        {"caches": {"team": Cache()}},
        {"database": Database(url="postgresql://127.0.0.1/harmonia")},
        {"upstream": [Upstream(url="https://cache.nixos.org")]},
    ],
)
def test_no_nix_is_no_fault_where_something_else_is_served(settings: dict[str, Any], what: dict[str, Any]) -> None:
    choice = choose_store(Config(**settings | what))
    assert (choice.way, choice.warning, choice.may_change) == (Way.NONE, None, True)


@pytest.mark.parametrize(
    "what",
    [
        {"caches": {"default": Cache(into="store")}},
        {"caches": {"team": Cache(local_store=True)}},
        {"oidc": {"ci": Oidc("https://token.example.org", "cache", [RULE])}},
        {"attic": Attic(enabled=True)},
    ],
)
def test_no_nix_is_said_where_one_is_needed_or_nothing_else_is_served(
    settings: dict[str, Any], what: dict[str, Any]
) -> None:
    """`/ready` was 200, and the log and doctor were silent, while every push was refused or every path was 404."""
    config = Config(**settings | {"state_directory": settings["real_nix_store"]} | what)
    choice = choose_store(config)
    assert choice.warning is not None
    assert choice.warning.startswith("no Nix here: ")
    assert lack_of_store(config) is Lack.FAULT


def test_no_nix_is_said_where_a_table_may_only_say_who_reads(settings: dict[str, Any], tmp_path: Path) -> None:
    """A private cache of the local store that was started before nix-daemon.socket answered 404 and did not say why."""
    config = Config(**settings, state_directory=str(tmp_path), caches={"default": Cache(public=False)})
    choice = choose_store(config)
    assert choice.warning is not None
    assert "only what clients push is served" in choice.warning
    assert lack_of_store(config) is Lack.DOUBT


async def test_a_cache_that_a_command_has_made_is_served_without_a_nix(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """`/ready` was 503 for ever after `harmonia-py cache create team`, while the cache answered."""
    config = Config(**settings, state_directory=str(tmp_path))
    async with aclosing(await open_catalog(config)) as catalog:
        assert lack_of_store(config) is Lack.FAULT, "a catalog of tokens alone serves nothing"
        await catalog.caches.create(CacheName("team"), CacheSettings(), declared=False, now=NOW)
        assert lack_of_store(config) is Lack.NO_FAULT
        await catalog.caches.create(CacheName("store"), CacheSettings(local_store=True), declared=False, now=NOW)
        assert lack_of_store(config) is Lack.FAULT
        await catalog.caches.delete(CacheName("store"), now=NOW)
        assert lack_of_store(config) is Lack.NO_FAULT
    assert lack_of_store(config) is Lack.NO_FAULT
    catalog_file(config).write_bytes(b"no database" * 100)
    assert lack_of_store(config) is Lack.NO_FAULT, "nothing is known of it"


@pytest.mark.parametrize("text", ["", "[]", "{", b'{"\xff": 1}', "[" * 100_000])
async def test_a_cache_whose_settings_cannot_be_read_keeps_no_server_from_its_start(
    settings: dict[str, Any], tmp_path: Path, text: str | bytes
) -> None:
    """The server ended with the traceback of a DecodeError where it would have said what is wrong with the catalog."""
    config = Config(**settings, state_directory=str(tmp_path))
    async with aclosing(await open_catalog(config)) as catalog:
        await catalog.caches.create(CacheName("team"), CacheSettings(local_store=True), declared=False, now=NOW)
    with closing(sqlite3.connect(catalog_file(config))) as connection:
        connection.execute("update caches set settings = ? where name = 'team'", (text,))
        connection.commit()
    assert choose_store(config).warning is None
    assert lack_of_store(config) is Lack.NO_FAULT, "nothing is known of it"


def test_a_socket_whose_name_is_too_long_is_no_time_out(settings: dict[str, Any], database: Path) -> None:
    choice = choose_store(Config(**settings | {"daemon_socket": "/" + "x" * 200}))
    assert choice.way is Way.DATABASE
    assert choice.words == f"through the database {database}, as no nix-daemon answers (af_unix path too long)"


@as_root
@pytest.mark.usefixtures("daemon")
def test_a_socket_below_a_directory_that_is_closed_to_us_is_that_of_a_daemon(settings: dict[str, Any]) -> None:
    """Debian's `/nix/var/nix/daemon-socket` is open to nix-users alone.

    The server of any other user ended with a PermissionError, or wrote its traceback every few seconds.
    """
    with as_nobody():  # who may not enter what pytest makes
        choice = choose_store(Config(**settings))
    assert choice.way is Way.DAEMON
    assert choice.may_change
    assert choice.warning is not None
    assert "members of the group nix-users may" in choice.warning
