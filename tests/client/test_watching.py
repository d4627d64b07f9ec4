"""Watching a store: what it cannot do is said, once."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from lab import Lab

from harmonia_py.client.push_queue import PushQueue
from harmonia_py.client.watching import Watching
from harmonia_py.errors import DaemonProtocolError, StorageError
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.store.registrations import StoreRegistrations
from harmonia_py.store.sqlite import SqliteStore


class Counted(StoreRegistrations):
    """Attributes: `looks`, how often it was asked what has come; `often`, set at the third time."""

    looks = 0

    def __init__(self, store: SqliteStore, store_dir: StoreDir) -> None:
        super().__init__(store, store_dir)
        self.often = asyncio.Event()

    async def after(self, after: int) -> tuple[Sequence[StorePath], int]:
        self.looks += 1
        if self.looks == 3:
            self.often.set()
        return await super().after(after)


@pytest.fixture
async def registrations(lab: Lab) -> AsyncIterator[Counted]:
    store = SqliteStore(lab.database, lab.store_dir)
    yield Counted(store, lab.store_dir)
    await store.aclose()


async def test_a_queue_that_cannot_be_written_is_said_once_while_the_watch_goes_on(
    registrations: Counted, lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`watch-store` said nothing for days, until SIGTERM."""
    (tmp_path / "file").touch()
    watching = Watching(registrations, PushQueue(tmp_path / "file" / "queue"), lab.store_dir)
    await watching.begin()
    lab.add(tmp_path / "file")
    ending = asyncio.Event()
    watch = asyncio.create_task(watching.run(ending))
    async with asyncio.timeout(30):
        await registrations.often.wait()
        ending.set()
        with pytest.raises(StorageError):
            await watch
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "the queue: " in warnings[0].getMessage()


async def test_a_row_that_does_not_parse_is_an_error_of_the_store(registrations: Counted, lab: Lab) -> None:
    """It was one of a text from outside, which nothing that asks a store expects."""
    with closing(sqlite3.connect(lab.database)) as database, database:
        database.execute("update ValidPaths set path = '/elsewhere/x' where id = (select max(id) from ValidPaths)")
    with pytest.raises(DaemonProtocolError, match="does not parse"):
        await registrations.after(0)
