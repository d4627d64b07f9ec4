"""A cache, its bytes, its clients and its collector under a virtual clock, and what must hold of them at any time."""

import asyncio
import os
import shutil
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final, TypeVar

from catalogs import NOW, nar_file, path_info, store_path
from msgspec.structs import replace
from postgresql import shared

from harmonia_py.catalog.caches import DEFAULT_CACHE, CacheSettings, Timestamp
from harmonia_py.catalog.collection import Reason, Scope
from harmonia_py.catalog.collector import Collector, make_room
from harmonia_py.catalog.nars import PACKS, RECIPES, BeingDeleted, NarFile
from harmonia_py.catalog.objects import Document, DocumentKind, ObjectState, Publication, Published, StoredObject
from harmonia_py.catalog.pins import PinName, PinRuleChange
from harmonia_py.catalog.uploads import SESSION_SECONDS, Session
from harmonia_py.chunks.catalog import PackedChunk
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.postgresql.connections import Address
from harmonia_py.database.postgresql.database import PostgresDatabase
from harmonia_py.database.sqlite import _run, connect
from harmonia_py.database.transaction import Topic, Transaction
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart

T = TypeVar("T")

CACHE: Final = DEFAULT_CACHE
KEEP_UNUSED: Final = 5_000
GRACE: Final = 500
SCOPE: Final = Scope(cache=CACHE, settings=CacheSettings(keep_unused=KEEP_UNUSED, grace=GRACE), deleted=False)

# Two closures that share a base, a chain, and a diamond: each references only what stands before it.
REFERENCES: Final[dict[str, tuple[str, ...]]] = {
    "libc": (),
    "zlib": ("libc",),
    "ssl": ("libc", "zlib"),
    "bash": ("libc",),
    "curl": ("libc", "ssl", "zlib"),
    "git": ("bash", "curl"),
    "tool": ("bash",),
    "app": ("git", "tool"),
}
NAMES: Final = tuple(REFERENCES)
HASH_PARTS: Final = {name: path_info(name).store_path.hash_part for name in NAMES}


def made_of_chunks(file: NarFile) -> NarFile:
    """A file that is made of chunks, of the same NAR."""
    file_hash = Hash.of(f"made {file.blob_key}".encode())
    return replace(file, file_hash=file_hash, blob_key=f"{RECIPES}{file_hash.nix32}", compression="zstd")


def closure(name: str) -> tuple[str, ...]:
    """With all that it references, references first."""
    found: dict[str, None] = {}
    for reference in REFERENCES[name]:
        found.update(dict.fromkeys(closure(reference)))
    found[name] = None
    return tuple(found)


# Each is made of hashes of hashes: made once, they cost nothing in a hundred thousand steps.
CLOSURES: Final = {name: closure(name) for name in NAMES}
FILES: Final = {nar: nar_file(nar) for name in NAMES for nar in (name, f"{name}-other")}
MADE: Final = {nar: made_of_chunks(file) for nar, file in FILES.items()}
"""What takes the place of a file when it becomes chunks."""
NARS: Final = {file.blob_key: nar for files in (FILES, MADE) for nar, file in files.items()}
# One of its own, one that another build of it has as well, one that all have.
CHUNKS: Final = {
    nar: frozenset(ChunkHash(Hash.of(text.encode()).digest) for text in (nar, nar.removesuffix("-other"), "common"))
    for nar in FILES
}
BY_HASH_PART: Final = {hash_part: name for name, hash_part in HASH_PARTS.items()}
PATH_INFOS: Final = {
    (name, nar): path_info(name, REFERENCES[name], nar=nar) for name in NAMES for nar in (name, f"{name}-other")
}


@dataclass
class Client:
    """A push under way.

    Attributes:
        session: its id.
        seen: its last sign of life.
        heard: hash parts of what it was told is here.
        to_upload: paths whose NARs are still to be sent, the next one last.
        to_publish: paths whose narinfos are.
    """

    session: str
    seen: Timestamp
    heard: set[str]
    to_upload: list[str]
    to_publish: list[str] = field(default_factory=list)


# A database in PostgreSQL as it is when it was just made.
EMPTY: Final = """
    do $$ declare name text; begin
        for name in select tablename from pg_tables
            where schemaname = 'public' and tablename not in ('caches', 'migrations')
        loop execute 'truncate ' || quote_ident(name) || ' cascade'; end loop;
        insert into totals values (0, 'stored', 0, 0);
    end $$
"""


class Crashed(Exception):
    """The process died before it could begin its next transaction."""


class Inline:
    """The real database, asked on the spot: handing each transaction to a thread costs ten times as much as doing it.

    Attributes:
        writes_left: how many transactions it does before the process dies; None for any number.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        self.writes_left: int | None = None

    @staticmethod
    def run(work: Coroutine[Any, Any, T]) -> T:
        """The result of what waits for nothing."""
        try:
            work.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        raise AssertionError("it waited")

    async def read(self, transaction: Callable[[], Transaction[T]]) -> T:
        return _run(self._connection, transaction())

    scan = read

    async def write(
        self,
        transaction: Callable[[], Transaction[T]],
        *changes: Topic,  # noqa: ARG002  # no other process holds answers
        durable: bool = True,  # noqa: ARG002  # no power is cut
    ) -> T:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise Crashed
            self.writes_left -= 1
        self._connection.execute("begin immediate")
        try:
            result = _run(self._connection, transaction())
            self._connection.execute("commit")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("rollback")
        return result

    def generation(self, topic: Topic) -> int | None:
        raise NotImplementedError

    def watch(self, topic: Topic) -> "memoryview[int]":
        raise NotImplementedError

    def collecting(self, wait_seconds: float = 0.0) -> AbstractAsyncContextManager[bool]:
        raise NotImplementedError

    def housekeeping(self) -> AbstractAsyncContextManager[bool]:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()


_FOLDERS: Final = ("nar", "default", "packs", "recipes")


class OnPostgresql:
    """The real database in PostgreSQL, in an event loop of its own that runs while a step waits.

    Attributes:
        writes_left: as of `Inline`.
    """

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._database = self.run(PostgresDatabase.open(Address(url)))
        self.writes_left: int | None = None
        self.read = self._database.read
        self.scan = self._database.scan
        self.generation = self._database.generation
        self.watch = self._database.watch
        self.collecting = self._database.collecting
        self.housekeeping = self._database.housekeeping

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    async def write(self, transaction: Callable[[], Transaction[T]], *changes: Topic, durable: bool = True) -> T:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise Crashed
            self.writes_left -= 1
        return await self._database.write(transaction, *changes, durable=durable)

    async def aclose(self) -> None:
        await self._database.aclose()

    def close(self) -> None:
        self.run(self.aclose())
        self._loop.close()


class Disk:
    """The bytes, as files: under each key what was written there."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        for folder in _FOLDERS:
            (directory / folder).mkdir(parents=True)

    def write(self, key: str, data: str) -> None:
        with open(f"{self._directory}/{key}", "wb") as file:  # noqa: PTH123  # a Path costs more than the file
            file.write(data.encode())

    def delete(self, key: str) -> bool:
        """Whether there was something to delete."""
        try:
            os.unlink(f"{self._directory}/{key}")  # noqa: PTH108  # as above
        except FileNotFoundError:
            return False
        return True

    def has(self, key: str, data: str | None = None) -> bool:
        """Whether there are these bytes, or any."""
        try:
            with open(f"{self._directory}/{key}", "rb") as file:  # noqa: PTH123  # as above
                return data is None or file.read() == data.encode()
        except FileNotFoundError:
            return False

    def keys(self) -> list[str]:
        folders = [Path(self._directory, folder) for folder in _FOLDERS]
        return [f"{folder.name}/{file.name}" for folder in folders for file in folder.iterdir()]


class World:
    """Steps are methods; `check` holds what must hold after each of them."""

    def __init__(self, template: Path | str) -> None:
        # Memory where there is some: what is waited for in this test is only the disk.
        self._directory = Path(mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self._place = template
        if isinstance(template, Path):
            self._place = self._directory / "catalog.sqlite"
            shutil.copy(template, self._place)
        else:
            shared().execute(EMPTY, template)
        self.now = NOW
        self.disk = Disk(self._directory / "files")
        self.lost: set[str] = set()
        self.clients: dict[int, Client] = {}
        self.uses: dict[str, Timestamp] = {}
        self.touched: dict[str, Timestamp] = {}
        self.condemned: dict[str, Timestamp] = {}
        self.documents: dict[str, set[tuple[DocumentKind, str]]] = {}
        self.first: dict[str, str] = {}
        self.sessions = 0
        self.packs = 0
        self._open()

    def _open(self) -> None:
        place = self._place
        self._database: Inline | OnPostgresql = Inline(place) if isinstance(place, Path) else OnPostgresql(place)
        self.catalog = SqlCatalog(self._database)
        self.collector = Collector(self.catalog.collection, self.catalog.garbage, self._delete, batch=3)
        self._reader = self.catalog.objects

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what the catalog is asked."""
        return self._database.run(work)

    def close(self) -> None:
        self._database.close()
        shutil.rmtree(self._directory)

    # Clients

    def begin_push(self, number: int, top: str, *, references_first: bool) -> None:
        self.sessions += 1
        names = CLOSURES[top]
        session = f"session-{self.sessions}"
        present = self.run(
            self.catalog.objects.present(CACHE, session, [HASH_PARTS[name] for name in names], now=self.now)
        )
        heard = {name for name in names if HASH_PARTS[name] in present}
        for name in heard:
            self._touch(name)
        missing = [name for name in names if name not in heard]
        self.clients[number] = Client(session, self.now, heard, missing[::-1] if references_first else missing)

    def upload(self, number: int) -> None:
        """Send a NAR: its key is reserved, its bytes are written, then named."""
        client = self.clients[number]
        name = client.to_upload[-1]
        file = FILES[name]
        try:
            self.run(self.catalog.uploads.expect(CACHE, client.session, file.file_hash, file.blob_key, now=self.now))
            self.disk.write(file.blob_key, name)
            received = replace(file, nar_hash=None, nar_size=None)
            self.run(self.catalog.uploads.received(CACHE, client.session, received, now=self.now))
            self.lost.discard(file.blob_key)
            self.run(self.catalog.nars.checked(file, "{}"))
        except BeingDeleted:
            return
        self._hear_from(client)
        client.to_publish.append(client.to_upload.pop())

    def publish(self, number: int, *, with_log: bool) -> None:
        """Send a narinfo; a client whose NAR was swept meanwhile sends that once more."""
        client = self.clients[number]
        name = client.to_publish[0]
        file = FILES[name]
        if self.run(self.catalog.uploads.find(CACHE, file.file_hash)) is None:
            client.to_upload.append(client.to_publish.pop(0))
            return
        documents: tuple[Document, ...] = ()
        if with_log:
            documents = (self._listing(name), Document(kind=DocumentKind.LOG, name=f"{name}.drv", size=1, body=b"x"))
        self._publish(name, name, client.session, documents)
        self._hear_from(client)
        client.to_publish.pop(0)

    def ask_bases(self, number: int, name: str) -> None:
        """Ask which paths of that name are in chunks: a recipe will count on them, and on their chunks."""
        client = self.clients[number]
        found = self.run(self.catalog.bases.like(CACHE, client.session, [name], now=self.now))[name]
        self._hear_from(client)
        for base in found:
            stored = self._find(BY_HASH_PART[base.hash_part])
            assert stored is not None
            assert (stored.file.blob_key, stored.state) == (base.recipe, ObjectState.PUBLISHED)
            client.heard.add(BY_HASH_PART[base.hash_part])

    def _hear_from(self, client: Client) -> None:
        """A sign of life; a session that was dead by then begins anew, and counts on nothing that it heard before."""
        if self.now >= client.seen + SESSION_SECONDS:
            client.heard.clear()
        client.seen = self.now

    def push_rest(self, number: int) -> None:
        """All that is left of a push, as far as it can be done at this moment."""
        client = self.clients[number]
        for _ in range(3 * len(NAMES)):
            if client.to_upload:
                self.upload(number)
            elif client.to_publish:
                self.publish(number, with_log=True)

    def push_all(self, name: str) -> None:
        """A push from its beginning to its end."""
        number = max(self.clients, default=0) + 1
        self.begin_push(number, name, references_first=True)
        self.push_rest(number)
        client = self.clients[number]
        if client.to_upload or client.to_publish:
            del self.clients[number]
        else:
            self.commit(number)

    def publish_another_nar(self, name: str) -> None:
        """A build that is not reproducible, pushed by a client that asked for nothing before."""
        other = f"{name}-other"
        file = FILES[other]
        session = f"session-{self.sessions}-other"
        try:
            self.run(self.catalog.uploads.expect(CACHE, session, file.file_hash, file.blob_key, now=self.now))
            self.disk.write(file.blob_key, other)
            self.run(self.catalog.uploads.received(CACHE, session, file, now=self.now))
            self._publish(name, other, session, ())
        except BeingDeleted:
            return

    def commit(self, number: int) -> None:
        """All of a closure was heard or sent: it is published."""
        client = self.clients.pop(number)
        lives = self.now < client.seen + SESSION_SECONDS
        if lives:
            for name in client.heard:
                assert self._is_here(name), f"{name} was present when the client asked, and is not here at the end"
        session = Session(id=client.session, cache=CACHE, principal="", begun=client.seen, seen=self.now)
        self.run(self.catalog.uploads.session(session, end=True))

    def attach_log(self, name: str) -> None:
        log = Document(kind=DocumentKind.LOG, name=f"{name}.drv", size=1, body=b"x")
        session = f"session-{self.sessions}-log"
        self.run(self.catalog.uploads.attach(CACHE, session, log, {HASH_PARTS[name]}, now=self.now))
        if self._find(name) is not None:
            self.documents.setdefault(name, set()).add((log.kind, log.name))

    def read(self, name: str) -> None:
        """Ask for a narinfo and its NAR. The use is counted in memory; that of a condemned object is told at once."""
        found = self._find(name)
        if found is None:
            return
        if not self.disk.has(found.file.blob_key):
            self.run(self.catalog.nars.quarantine(found.file.file_hash, "lost", now=self.now))
            return
        self.uses[name] = self.now
        if found.state is ObjectState.CONDEMNED:
            self.flush()

    def flush(self) -> None:
        self.run(self.catalog.objects.used({(CACHE, HASH_PARTS[name]): at for name, at in self.uses.items()}))
        for name, at in self.uses.items():
            if self._find(name) is not None:  # it may be gone by now, or hidden
                self.touched[name] = max(at, self.touched.get(name, at))
        self.uses.clear()

    def pin(self, pin: str, name: str, revisions: int) -> None:
        rule = PinRuleChange(keep_revisions=revisions)
        self.run(self.catalog.pins.set(CACHE, PinName(pin), store_path(name), rule, set_by="", now=self.now))
        if self._is_here(name):
            self._touch(name)

    def unpin(self, pin: str) -> None:
        self.run(self.catalog.pins.remove(CACHE, PinName(pin), removed_by="", now=self.now))

    # The server

    def condemn(self) -> None:
        unused_since = Timestamp(self.now - KEEP_UNUSED)
        self.run(self.collector.condemn_unused(SCOPE, Reason.UNUSED, unused_since, self.now))

    def make_room(self, too_much: int) -> None:
        self.run(make_room([(self.collector, SCOPE)], too_much, self.now))

    def remove(self) -> None:
        self.run(self.collector.remove(SCOPE, Timestamp(self.now - GRACE), self.now))

    def sweep(self) -> None:
        self.run(self.collector.sweep(self.now))

    def empty_garbage(self) -> None:
        self.run(self.collector.empty_garbage(self.now))

    def make_chunks(self) -> None:
        """Make chunks of what there is: bytes first, rows second, under the lock of the collector."""
        due = self.run(self.catalog.chunks.due(CACHE, [CACHE], self.now, None, 100))
        for one in due.files:
            nar = NARS[one.file.blob_key]
            if not self.disk.has(one.file.blob_key, nar):
                continue
            self._write_pack(CHUNKS[nar] - set(self.run(self.catalog.chunks.known(CHUNKS[nar]))))
            made = MADE[nar]
            self.disk.write(made.blob_key, nar)
            with suppress(BeingDeleted):  # it stays as it is, until what a dead housekeeper claimed is gone
                self.run(self.catalog.chunks.replace(one.file.file_hash, made, CHUNKS[nar], now=self.now))

    def collect_packs(self) -> None:
        """Drop what packs do not need any more: what is left of one is written into another."""
        packs = self.catalog.packs
        while self.run(packs.drop_uses(2, now=self.now)):
            pass
        for pack in self.run(packs.to_look_at(10, now=self.now)):
            used = {chunk.chunk for chunk in pack.chunks if chunk.is_used}
            if len(used) == len(pack.chunks):
                self.run(packs.keep(pack.key, 10 * len(used)))
                continue
            self._write_pack(used)
            self.run(packs.move([pack.key], now=self.now, garbage_from=Timestamp(self.now + GRACE)))

    def _write_pack(self, chunks: Collection[ChunkHash]) -> None:
        if chunks:
            self.packs += 1
            key = f"{PACKS}{self.packs}"
            self.disk.write(key, " ".join(chunk.hex() for chunk in sorted(chunks)))
            packed = [PackedChunk(chunk, 10 * number, 10) for number, chunk in enumerate(sorted(chunks))]
            self.run(self.catalog.packs.add(key, 10 * len(packed), packed, now=self.now))

    def count_left_behind(self) -> None:
        """Count the files that killed processes have written and not named."""
        for expected in self.run(self.catalog.arrivals.expected(None, self.now, 100)):
            if self.disk.has(expected.blob_key):
                file = replace(FILES[NARS[expected.blob_key]], nar_hash=None, nar_size=None)
                self.run(self.catalog.arrivals.count(expected, file, now=self.now))
        for expected in self.run(self.catalog.arrivals.expected(None, self.now, 100)):
            assert not self.disk.has(expected.blob_key), f"nothing counts {expected.blob_key}"

    def crash_while_deleting(self, deleted: int) -> None:
        """The housekeeper dies after it has claimed keys, and has deleted some of the bytes."""
        keys = self.run(self.catalog.garbage.claim(1000, now=self.now))
        for key in keys[:deleted]:
            self.disk.delete(key)
        self.crash()

    def crash_within(self, transactions: int, step: Callable[[], None]) -> None:
        """The process dies in the middle of a step: so many of its transactions are done, and no other."""
        self._database.writes_left = transactions
        try:
            step()
        except Crashed:
            self.crash()
        else:
            self._database.writes_left = None

    def crash(self) -> None:
        """What was only in memory is gone."""
        self._database.close()
        self.uses.clear()
        self._open()

    def lose(self, name: str) -> None:
        """A disk loses a file, and the server finds out when it is next read, pushed or scrubbed."""
        key = FILES[name].blob_key
        if self.disk.delete(key):
            self.lost.add(key)

    async def _delete(self, keys: Sequence[str]) -> Collection[str]:
        for key in keys:
            self.disk.delete(key)
        return ()

    # What must hold

    def check(self) -> None:
        here = {name: found for name in NAMES if (found := self._find(name)) is not None}
        for name, found in here.items():
            self._check_seen(name, found, here)
        assert self.run(self.catalog.repairs.wrong_totals()) == []
        for client in self.clients.values():
            if self.now < client.seen + SESSION_SECONDS:
                for name in client.heard:
                    assert name in here or self._lacks(name), f"{name} was present, and is gone within the lease"
        # What is hidden is there still, and is collected like all else, unseen.
        rows = self.run(self._reader.paths(CACHE, HASH_PARTS.values()))
        for name in NAMES:
            if HASH_PARTS[name] not in rows:  # also what only waited: what came with it went with it
                self.documents.pop(name, None)
        for name in set(self.touched) - set(here):
            if HASH_PARTS[name] not in rows:
                self._check_gone(name)
            elif self.run(self._reader.waiting(CACHE, HASH_PARTS[name])) is not None:
                # It was hidden, and pushed again before what it references: now it waits as if it were new.
                del self.touched[name]
                self.condemned.pop(name, None)
            else:
                assert self._lacks(name), f"{name} is hidden, and all of its closure is there"

    def _check_seen(self, name: str, found: StoredObject, here: Collection[str]) -> None:
        if found.state is ObjectState.CONDEMNED:
            self.condemned.setdefault(name, self.now)
        else:
            self.condemned.pop(name, None)
        key = found.file.blob_key
        assert key in self.lost or self.disk.has(key, NARS[key]), f"{name} has no bytes, or those of another"
        if found.file.is_chunked:
            places = self.run(self.catalog.chunks.places(CHUNKS[NARS[key]]))
            assert len(places) == len(CHUNKS[NARS[key]]), f"{name} lacks a chunk"
            assert all(self.disk.has(place.pack) for place in places.values()), f"{name} lacks a pack"
        for reference in REFERENCES[name]:
            assert reference in here, f"{name} is here without {reference}"
        for kind, document in self.documents.get(name, ()):
            assert self.run(self._reader.document(CACHE, kind, document)), f"the {kind.value} of {name} is gone"
        nar_hash = str(found.path_info.nar_hash)
        if self._was_lost(name):  # then another NAR may take its place
            self.first[name] = nar_hash
        assert self.first.setdefault(name, nar_hash) == nar_hash

    def _check_gone(self, name: str) -> None:
        del self.touched[name]
        self.first.pop(name, None)
        condemned = self.condemned.pop(name, None)
        if not self._lacks(name):
            assert condemned is not None, f"{name} went without being condemned"
            since = self.now - condemned
            assert since >= GRACE, f"{name} went {since} s after it was condemned"

    def check_nothing_is_left(self) -> None:
        """When all pushes are dead and nothing was used for long, all that is left is what pins keep."""
        self.clients.clear()
        for pin in ("release", "nightly"):
            self.unpin(pin)
        for _ in range(len(NAMES)):
            if not self.disk.keys() and not self.run(self.catalog.objects.size(None)).objects:
                return
            self.now = Timestamp(self.now + SESSION_SECONDS + KEEP_UNUSED + 1)
            self.sweep()
            self.condemn()
            self.now = Timestamp(self.now + GRACE)
            self.remove()
            self.collect_packs()
            self.empty_garbage()
            self._discard_strays()
        raise AssertionError(f"nothing keeps {sorted(self.disk.keys())}")

    def _discard_strays(self) -> None:
        """What a start does with packs and recipes whose process was killed before it could name them."""
        there = self.disk.keys()
        keys = [key for key in there if key.startswith((PACKS, RECIPES))]
        unnamed = self.run(self.catalog.repairs.unnamed(keys))
        self.run(self.catalog.repairs.discard(unnamed, garbage_from=self.now))

    def _find(self, name: str) -> StoredObject | None:
        return self.run(self._reader.find(CACHE, HASH_PARTS[name]))

    def _is_here(self, name: str) -> bool:
        return self._find(name) is not None or self._lacks(name)

    def _lacks(self, name: str) -> bool:
        """Whether a file of its closure was lost, or another NAR came for one that was."""
        return bool(self.lost) and any(self._was_lost(one) for one in CLOSURES[name])

    def _was_lost(self, name: str) -> bool:
        return FILES[name].blob_key in self.lost or FILES[f"{name}-other"].blob_key in self.lost

    def _touch(self, name: str) -> None:
        self.touched[name] = self.now

    def _publish(self, name: str, nar: str, session: str, documents: tuple[Document, ...]) -> None:
        publication = Publication(
            cache=CACHE,
            path_info=PATH_INFOS[name, nar],
            file=FILES[nar],
            session=session,
            documents=documents,
        )
        published = self.run(self.catalog.objects.publish(publication, now=self.now))
        self._note(name, published)
        if documents and published.first is None:
            self.documents.setdefault(name, set()).update((document.kind, document.name) for document in documents)

    def _note(self, name: str, published: Published) -> None:
        if published.state is ObjectState.PUBLISHED:
            self._touch(name)
        for promoted in published.promoted:
            self._touch(BY_HASH_PART[promoted])

    @staticmethod
    def _listing(name: str) -> Document:
        return Document(kind=DocumentKind.LISTING, name=HashPart(HASH_PARTS[name]), size=2, body=b"{}")
