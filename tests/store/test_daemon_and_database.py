"""The database is believed while the daemon says what it says, and its connection stands."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from shutil import copyfile

import pytest
from lab import Lab

from harmonia_py.errors import DaemonUnreachable, StorageError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.store.daemon.connection import Connection
from harmonia_py.store.daemon.known_paths import CHECK_SECONDS, KnownPaths
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.daemon_and_database import DaemonAndDatabase
from harmonia_py.store.damaged import DamagedPaths
from harmonia_py.store.local import LocalStore
from harmonia_py.store.sqlite import SqliteStore


class CountingDaemon(DaemonStore):
    """The real daemon, with a note of every question."""

    asked: list[HashPart]

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        self.asked.append(hash_part)
        return await super().path_info(hash_part)


@pytest.fixture
async def asked_of(daemon: Lab) -> AsyncIterator[CountingDaemon]:
    store = CountingDaemon(daemon.socket, daemon.store_dir)
    store.asked = []
    yield store
    await store.aclose()


@pytest.fixture
def copy(daemon: Lab, tmp_path: Path) -> Path:
    """The database as it is now, in a directory where Nix does not write."""
    for file in (daemon.database, daemon.database.with_name("schema")):
        copyfile(file, tmp_path / file.name)
    with closing(sqlite3.connect(daemon.database)) as source, closing(sqlite3.connect(tmp_path / "db.sqlite")) as to:
        source.backup(to)
    return tmp_path / "db.sqlite"


async def test_the_daemon_is_asked_once_and_then_the_database_is_read(daemon: Lab, asked_of: CountingDaemon) -> None:
    assert daemon.closure is not None
    database = SqliteStore(daemon.database, daemon.store_dir)
    both = DaemonAndDatabase(asked_of, database)
    try:
        top = await both.path_info(daemon.closure.top.hash_part)
        assert top is not None
        for path in (daemon.closure.top, daemon.closure.input0, daemon.closure.input2):
            assert await both.path_info(path.hash_part) == await database.path_info(path.hash_part)
        assert len(await both.beneath(top, 100)) > 1
        assert asked_of.asked == [daemon.closure.top.hash_part]
    finally:
        await database.aclose()


async def test_a_database_that_says_something_else_is_not_believed(
    daemon: Lab, asked_of: CountingDaemon, copy: Path
) -> None:
    """The directory of files may have been copied with its database, which goes its own way since."""
    assert daemon.closure is not None
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("update ValidPaths set narSize = narSize + 1")
    database = SqliteStore(copy, daemon.store_dir)
    both = DaemonAndDatabase(asked_of, database)
    try:
        for path in (daemon.closure.top, daemon.closure.input0):
            info = await both.path_info(path.hash_part)
            assert info is not None
            assert info.nar_size == len(daemon.dump(path))
            assert await both.beneath(info, 100) == ()
    finally:
        await database.aclose()


async def test_what_only_the_daemon_has_is_found(daemon: Lab, asked_of: CountingDaemon, copy: Path) -> None:
    """The database of an overlay of stores has what is in the lower one only once its daemon was asked for it."""
    assert daemon.closure is not None
    (copy.parent / "new").write_text(copy.name)
    new = daemon.add(copy.parent / "new")
    database = SqliteStore(copy, daemon.store_dir)
    both = DaemonAndDatabase(asked_of, database)
    try:
        assert await both.path_info(daemon.closure.top.hash_part) is not None
        info = await both.path_info(new.hash_part)
        assert info is not None
        assert info.store_path == new
        assert await both.path_info(HashPart.parse("0" * 32)) is None
    finally:
        daemon.delete(new)
        await database.aclose()


async def test_a_store_whose_daemon_is_away_cannot_tell(daemon: Lab, asked_of: CountingDaemon) -> None:
    """Its files may be about to be replaced: what is served while it is away is what was asked for before."""
    assert daemon.closure is not None
    database = SqliteStore(daemon.database, daemon.store_dir)
    both = DaemonAndDatabase(asked_of, database)
    try:
        assert await both.path_info(daemon.closure.top.hash_part) is not None
        connection = asked_of.standing
        assert isinstance(connection, Connection)
        daemon.stop_daemon()
        await connection.wait_closed()
        with pytest.raises(DaemonUnreachable):
            await both.path_info(daemon.closure.input0.hash_part)
        daemon.start_daemon()
        assert await both.path_info(daemon.closure.input0.hash_part) is not None
    finally:
        await database.aclose()


async def test_a_database_that_cannot_be_read_changes_nothing(daemon: Lab, asked_of: CountingDaemon) -> None:
    assert daemon.closure is not None
    database = SqliteStore(daemon.root / "nowhere", daemon.store_dir)
    both = DaemonAndDatabase(asked_of, database)
    try:
        for path in (daemon.closure.top, daemon.closure.input0):
            assert await both.path_info(path.hash_part) is not None
    finally:
        await database.aclose()


async def test_the_nearest_paths_of_a_closure_are_told_with_all_their_references(lab: Lab) -> None:
    assert lab.closure is not None
    database = SqliteStore(lab.database, lab.store_dir)
    try:
        top = await database.path_info(lab.closure.top.hash_part)
        assert top is not None
        assert top.references
        assert await database.beneath(top, 1) == (top,)
    finally:
        await database.aclose()


async def test_after_the_first_look_no_client_waits_for_the_daemon(daemon: Lab, asked_of: CountingDaemon) -> None:
    """The first narinfos after a start waited 20 milliseconds until the daemon was connected and had agreed."""
    assert daemon.closure is not None
    database = SqliteStore(daemon.database, daemon.store_dir)
    both = DaemonAndDatabase(asked_of, database)
    local = LocalStore(metadata=both, roots=None, real_store=daemon.real_store, log_directory=daemon.log_dir)
    try:
        await local.look_first()
        assert len(asked_of.asked) == 1
        found = await local.narinfo(daemon.closure.top.hash_part)
        assert found is not None
        assert found.narinfo.path_info == await database.path_info(daemon.closure.top.hash_part)
        assert len(asked_of.asked) == 1
    finally:
        local.close()
        await database.aclose()


class CountingDatabase(SqliteStore):
    """The real database, with a note of every question."""

    asked: list[HashPart]

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        self.asked.append(hash_part)
        return await super().path_info(hash_part)


async def test_the_first_look_does_not_open_the_database(daemon: Lab, asked_of: CountingDaemon) -> None:
    """Each worker that no client had asked yet had 1.5 MB for the database and what it read ahead."""
    assert daemon.closure is not None
    database = CountingDatabase(daemon.database, daemon.store_dir)
    database.asked = []
    both = DaemonAndDatabase(asked_of, database)
    local = LocalStore(metadata=both, roots=None, real_store=daemon.real_store, log_directory=daemon.log_dir)
    try:
        await local.look_first()
        assert (len(asked_of.asked), len(database.asked)) == (1, 0)
        assert await both.path_info(daemon.closure.top.hash_part) is not None
        assert (len(asked_of.asked), len(database.asked)) == (1, 2)
    finally:
        local.close()
        await database.aclose()


async def test_questions_at_the_same_time_wait_for_one_comparison(daemon: Lab, asked_of: CountingDaemon) -> None:
    assert daemon.closure is not None
    database = SqliteStore(daemon.database, daemon.store_dir)
    both = DaemonAndDatabase(asked_of, database)
    paths = [daemon.closure.top, daemon.closure.input0, daemon.closure.input2] * 3
    try:
        infos = await asyncio.gather(*[both.path_info(path.hash_part) for path in paths])
        assert infos == [await database.path_info(path.hash_part) for path in paths]
        assert len(asked_of.asked) == 1
    finally:
        await database.aclose()


async def test_a_first_look_at_a_store_that_cannot_tell_is_no_error(daemon: Lab, tmp_path: Path) -> None:
    """What is wrong is said to clients, who may come when it is right again."""
    nowhere = DaemonStore(tmp_path / "socket", daemon.store_dir)
    local = LocalStore(metadata=nowhere, roots=None, real_store=daemon.real_store, log_directory=daemon.log_dir)
    without_files = LocalStore(metadata=nowhere, roots=None, real_store=tmp_path / "store", log_directory=tmp_path)
    try:
        await local.look_first()
        with pytest.raises(DaemonUnreachable):
            await local.narinfo(daemon.closure.top.hash_part)
        await without_files.look_first()
        with pytest.raises(StorageError):
            await without_files.narinfo(daemon.closure.top.hash_part)
    finally:
        local.close()
        without_files.close()
        await nowhere.aclose()


async def test_the_files_of_a_path_are_looked_at_where_it_is_read(daemon: Lab) -> None:
    """A path that the database has and the store directory has not is damaged, and one that was deleted is absent."""
    assert daemon.closure is not None
    store = DaemonStore(daemon.socket, daemon.store_dir)
    database = SqliteStore(daemon.database, daemon.store_dir)
    both, damaged, now = DaemonAndDatabase(store, database), DamagedPaths(), 1000.0
    lost, whole = daemon.closure.input0, daemon.closure.input2
    os.utime(daemon.real_store, (1, 1))
    try:
        with Threads(Pool.KNOWN) as threads:
            known = KnownPaths(both, str(daemon.real_store), threads, clock=lambda: now, damaged=damaged)
            assert await known.path_info(daemon.closure.top.hash_part) is not None  # the two agree from now on
            deleted = daemon.add(Path(__file__))
            assert await known.path_info(deleted.hash_part) is not None
            await asyncio.to_thread(daemon.delete, deleted)
            daemon.real(lost).chmod(0o755)  # a user moves only what they may write to
            daemon.real(lost).rename(daemon.root / "elsewhere")
            now += CHECK_SECONDS
            info = await database.path_info(lost.hash_part)
            assert info is not None
            assert await known.path_info(lost.hash_part) is None
            assert await known.path_info(deleted.hash_part) is None
            assert await known.path_info(whole.hash_part) is not None
            assert damaged.find(lost, info.nar_hash) is not None
            assert damaged.changed_ns
    finally:
        if (daemon.root / "elsewhere").exists():
            (daemon.root / "elsewhere").rename(daemon.real(lost))
        await database.aclose()
        await store.aclose()
