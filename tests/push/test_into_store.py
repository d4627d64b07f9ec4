"""What waits for the local store, as the server looks at it again and again."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from catalogs import NOW, hash_part, hash_parts, opened_catalog, publication, store_path
from memory_storage import MemoryBlobs
from msgspec.structs import replace

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.cache_name import DEFAULT
from harmonia_py.catalog.caches import DEFAULT_CACHE
from harmonia_py.catalog.objects import Published
from harmonia_py.catalog.quarantine import Quarantine
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import PushConflict, StorageError
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.push.claims import CheckedFile, PushedFile
from harmonia_py.push.into_store import IntoStore
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.publishing import CheckedClaim
from harmonia_py.push.receiving import PushSession
from harmonia_py.push.store_import import HeldPaths, StoreImport
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.store.daemon.importing import DaemonWriter

STORE = StoreDir("/nix/store")
CACHE_INFO = CacheInfo(STORE, want_mass_query=True, priority=40)


@dataclass
class Machine:
    """A store of which the paths in `valid` are valid, and the pushes into it.

    Attributes:
        catalog: has what waits.
        store_import: adds to the store; there is no nix-daemon.
        into_store: makes each pass as short as it can be.
        valid: the paths of the store.
    """

    catalog: SqlCatalog
    store_import: StoreImport = field(init=False)
    into_store: IntoStore = field(init=False)
    valid: set[StorePath] = field(default_factory=set)

    def __post_init__(self) -> None:
        writer = DaemonWriter(Path("/nowhere/socket"), STORE)
        self.store_import = StoreImport(writer, HeldPaths(self._protect), store_dir=STORE, secret_keys=[])
        blobs = MemoryBlobs()

        async def is_here(key: str) -> bool:
            return await blobs.metadata(BlobKey(key)) is not None

        self.into_store = IntoStore(
            DEFAULT,
            ports(self.catalog, blobs, Quarantine(self.catalog.nars, is_here)),
            view=BinaryCache(cache_info=CACHE_INFO, sources=[], secret_keys=[]),
            publish=self._publish,
            store_import=self.store_import,
            pass_seconds=0,
        )

    async def _protect(self, path: StorePath) -> "Release | None":
        return Release() if path in self.valid else None

    async def _publish(self, claim: CheckedClaim) -> Published:
        return await self.catalog.objects.publish(claim.publication, now=NOW)


class Release:
    def __call__(self) -> None:
        """There is no garbage collector."""


def ports(catalog: SqlCatalog, blobs: BlobStore, quarantine: Quarantine) -> PushPorts:
    async def open_blob(_: str) -> None:
        """No NAR is read again."""

    return PushPorts(
        objects=catalog.objects,
        nars=catalog.nars,
        uploads=catalog.uploads,
        adoption=catalog.uploads,
        arrivals=catalog.arrivals,
        awaiting=catalog.awaiting,
        evidence=catalog.evidence,
        sessions=catalog.sessions,
        bases=catalog.bases,
        audit=catalog.audit,
        room_wanted=catalog.room_wanted,
        quarantine=quarantine,
        blobs=blobs,
        open_blob=open_blob,
        threads=Threads(Pool.PUSH, 1),
        store_dir=STORE,
        now=lambda: NOW,
    )


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with opened_catalog("sqlite", tmp_path) as catalog:
        machine = Machine(catalog)
        yield machine
        await machine.store_import.aclose()


async def test_a_pass_over_what_waits_is_bounded_and_the_next_one_goes_on_from_there(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """A pass went over all that waits, however long the nix-daemon took with each path."""
    names = sorted(["x", "y"], key=hash_part)
    for name in names:
        waits = replace(publication(DEFAULT_CACHE, name, ["a"]), awaited=hash_parts(["a"]))
        await machine.catalog.objects.publish(waits, now=NOW)
    machine.valid.add(store_path("a"))
    tried, told = [], []
    for _ in range(4):
        caplog.clear()
        await machine.into_store.take_what_waits(DEFAULT_CACHE)
        tried.append([name for name in names if str(store_path(name)) in caplog.text])
        # That a file is lost is an error, and said once.
        lost = [record for record in caplog.records if record.name == "harmonia_py.catalog.quarantine"]
        assert all(record.levelno == logging.WARNING for record in caplog.records if record not in lost)
        told.append(len(lost))
    # Their files are lost, and may be sent again: they go on waiting.
    assert tried == [names[:1], names[1:], [], names[:1]]
    assert told == [1, 1, 0, 0]


async def test_what_is_refused_while_it_waits_waits_no_more(machine: Machine) -> None:
    """One of two references came, and the other was not to come any more: the client was told that its path is refused,
    and the path waited for an hour all the same."""
    given = publication(DEFAULT_CACHE, "top", ["a", "b"])
    file, info = given.file, given.path_info
    checked = CheckedFile(
        file=PushedFile(file.file_hash, "zstd"),
        file_size=file.file_size,
        nar_hash=info.nar_hash,
        nar_size=info.nar_size,
        candidates=None,
    )
    asked = 0

    async def to_come(hash_parts: Collection[HashPart]) -> frozenset[HashPart]:
        nonlocal asked
        asked += 1
        machine.valid.add(store_path("b"))
        return frozenset(hash_parts) if asked == 1 else frozenset()

    session = PushSession("session", DEFAULT_CACHE, "tests")
    with pytest.raises(PushConflict, match="-a is not in the store"):
        await machine.into_store.add(session, CheckedClaim(given, checked), to_come)
    assert asked == 2
    assert await machine.catalog.objects.waiting(DEFAULT_CACHE, hash_part("top")) is None


async def test_work_that_is_given_up_when_the_import_closes_is_an_error_for_its_caller(machine: Machine) -> None:
    """After a reload with other settings the caller took it for its own end: the keys of worker 0 retired no more, last
    uses of tokens were not noted, and nothing that waited was taken, until the next start."""
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    caller = asyncio.create_task(machine.store_import.to_its_end(work()))
    await begun.wait()
    await machine.store_import.aclose()
    await asyncio.wait([caller])
    assert not caller.cancelled()
    assert isinstance(caller.exception(), StorageError)


async def test_a_caller_that_is_cancelled_leaves_the_work_to_its_end(machine: Machine) -> None:
    begun, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go.wait()
        done.set()

    caller = asyncio.create_task(machine.store_import.to_its_end(work()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    await machine.store_import.idle()
    assert done.is_set()
