"""`Pushes`: everything that clients may do to push to one cache."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from msgspec import Struct, field

from harmonia_py.cache.access import Principal
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.found import Found
from harmonia_py.cache.source import Download
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.caches import CacheRow
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import ObjectState, Published, StoredObject
from harmonia_py.catalog.stored import PUSHED
from harmonia_py.catalog.uploads import Session
from harmonia_py.errors import FormatError, PushRefused
from harmonia_py.nix.hashes import short_digest
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.push.adopting import Adopting
from harmonia_py.push.claims import PushedFile, parse_claim
from harmonia_py.push.documents import PushedDocuments
from harmonia_py.push.into_store import IntoStore
from harmonia_py.push.parts import PartName, PartUploads
from harmonia_py.push.past_server.of_cache import UploadsPastServer
from harmonia_py.push.past_server.parts import MultipartPushes
from harmonia_py.push.past_server.single import PendingUploads
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.publishing import Publisher, PushOrder, all_to_come
from harmonia_py.push.push_metrics import PushCounters
from harmonia_py.push.receiving import PushSession, Receiver, check_compression
from harmonia_py.push.recipes import RecipeUploads
from harmonia_py.push.room import RoomForPushes
from harmonia_py.push.sessions import PushSessions
from harmonia_py.push.static_side import StaticSide
from harmonia_py.push.static_writer import StaticWriter
from harmonia_py.runtime.bounded import Bounded

# A session lives for a day after its last sign of life: noting signs more often would only cost writes.
_SIGN_SECONDS: Final = 600
_MAX_SESSIONS: Final = 4096


class Pushes(Struct, frozen=True, eq=False):
    """One cache, as clients that push see it.

    Attributes:
        cache: as the catalog has it.
        ports: the catalog and the files.
        view: the cache as its readers see it.
        receiver: takes files in.
        publisher: publishes paths.
        documents: takes documents in.
        sessions: of clients that begin them.
        parts: files that come in parts.
        static_side: the files of the cache that other programs read.
        static_writer: writes these in the background.
        counters: of pushes to all caches.
        usage: of this cache.
        into_store: adds pushed paths to the local store, instead of publishing them; None: they are published.
        room: of the cache.
        pending: files that clients send past this server; None where they cannot.
        in_parts: those of them that come in parts; None where they cannot.
        recipes: NARs that come as recipes; None where none come.
    """

    cache: CacheRow
    ports: PushPorts
    view: BinaryCache
    receiver: Receiver
    publisher: Publisher
    documents: PushedDocuments
    sessions: PushSessions
    parts: PartUploads
    static_side: StaticSide
    static_writer: StaticWriter
    counters: PushCounters
    usage: CacheUsage
    room: RoomForPushes
    into_store: IntoStore | None = None
    pending: PendingUploads | None = None
    in_parts: MultipartPushes | None = None
    recipes: RecipeUploads | None = None
    _sessions: Bounded[tuple[str, str], tuple[PushSession, int]] = field(default_factory=lambda: Bounded(_MAX_SESSIONS))

    @property
    def past_server(self) -> UploadsPastServer | None:
        """Files that clients send past this server; None where they cannot."""
        if self.pending is None:
            return None
        return UploadsPastServer(
            self.pending,
            self.in_parts,
            receiver=self.receiver,
            room=self.room,
            find=self.file,
            came=self._count,
        )

    @property
    def adopting(self) -> Adopting:
        """Publishes paths of other caches in this one."""
        return Adopting(self.cache, self.ports, room=self.room, publish=self.publish)

    async def session(self, principal: Principal, run: str) -> PushSession:
        """The session of this principal's run, with a sign of life noted.

        Raises:
            StorageError: it cannot be noted.
        """
        now = self.ports.now()
        session, until = self._sessions.get((principal.name, run), (None, 0))
        if session is None or now >= until:
            session_id = short_digest(f"{self.cache.id}\0{principal.name}\0{run}")
            session = PushSession(session_id, self.cache.id, principal.name, self.cache.settings.max_nar_size)
            row = Session(id=session.id, cache=self.cache.id, principal=principal.name, begun=now, seen=now)
            await self.ports.uploads.session(row)
            self._sessions[principal.name, run] = session, now + _SIGN_SECONDS
        return session

    async def end(self, session: PushSession) -> None:
        """End a session that a client has begun; what it leaves behind in the bucket goes."""
        await self.sessions.end(session)
        if self.past_server is not None:
            self.past_server.ended(session)

    async def check_room(self, file_size: int, file: PushedFile | None = None) -> None:
        """As `RoomForPushes.check`."""
        await self.room.check(file_size, None if file is None else file.file_hash)

    async def check_room_for_part(self, principal: Principal, nar: PartName, end: int) -> None:
        """As `check_room`, for a part of a file that ends at this place of it."""
        await self.room.check(end, here=await self.parts.taken(self.cache.id, principal.name, nar))

    async def file(self, session: PushSession, file: PushedFile) -> NarFile | None:
        """A file that this cache has or was sent; it stays as long as the session lives."""
        row = await self.ports.uploads.find(session.cache, file.file_hash)
        if row is None or row.compression != file.compression:
            return None
        return await self.ports.uploads.claim(session.cache, session.id, file.file_hash, now=self.ports.now())

    async def open(self, session: PushSession, file: PushedFile) -> Download | None:
        """The bytes of a file that this cache has or was sent."""
        row = await self.file(session, file)
        download = None if row is None else await self.ports.open_blob(row.blob_key)
        if row is not None and download is None:
            await self.ports.quarantine.finds(row)
        return download

    async def narinfo(self, session: PushSession, hash_part: HashPart) -> Found | None:
        """The narinfo of a path that the cache has, pushed or from elsewhere; it stays as long as the session lives."""
        found = await self.view.narinfo(hash_part)
        if found is not None and self.into_store is not None:
            return found if await self.into_store.has(found.narinfo.path_info.store_path) else None
        if found is None or found.origin != PUSHED:
            return found
        # A lost file is answered as absent: this client, and perhaps no other, can send it again.
        if await self._is_lost(found.narinfo):
            return None
        present = await self.ports.objects.present(session.cache, session.id, [hash_part], now=self.ports.now())
        return found if present else None

    async def _is_lost(self, narinfo: NarInfo) -> bool:
        assert narinfo.file_hash is not None
        row = await self.ports.nars.file(narinfo.file_hash)
        return row is None or not await self.ports.quarantine.finds(row)

    async def receive(
        self, session: PushSession, file: PushedFile, file_size: int, portions: AsyncIterator[bytes]
    ) -> None:
        """Take a file in; see `Receiver.receive`."""
        check_compression(file)
        with self.room.arriving(file_size):
            await self.receiver.receive(session, file, file_size, portions)
        await self._count(file_size)

    async def _take_past_server(
        self, past: UploadsPastServer, session: PushSession, hash_part: HashPart, data: bytes
    ) -> None:
        """Take in the file that a narinfo names, if the client has sent it past this server."""
        _, file = parse_claim(data, hash_part, self.ports.store_dir)
        if await self.ports.uploads.find(session.cache, file.file_hash) is None:
            await past.take(session, file)

    async def receive_nar(self, session: PushSession, claim: PathInfo, portions: AsyncIterator[bytes]) -> NarFile:
        """Take in a NAR that is not compressed; see `Receiver.receive_nar`."""
        with self.room.arriving(claim.nar_size):
            file = await self.receiver.receive_nar(session, claim, portions)
        await self._count(file.file_size, checked=claim.nar_size)
        return file

    async def finish_parts(self, session: PushSession, nar: PartName, file: PushedFile, file_size: int) -> bool:
        """Take in a file whose parts are all here; see `PartUploads.finish`."""
        check_compression(file)
        if await self.file(session, file) is not None:
            return True
        done = await self.parts.finish(session, nar, file, file_size)
        if done:
            await self._count(file_size)
        return done

    async def _count(self, file_size: int, *, checked: int | None = None) -> None:
        self.counters.files.add()
        self.counters.bytes.add(file_size)
        self.usage.pushed_nars.add()
        await self.room.came(file_size, checked)

    async def publish(
        self,
        session: PushSession,
        hash_part: HashPart,
        data: bytes,
        order: PushOrder = PushOrder.REFERENCES_FIRST,
    ) -> Published:
        """Publish a path, or let it wait for its references; see `Publisher.check` and `Publisher.publish`.

        If the cache names keys of upstreams, whose paths clients that announce leave out, the path does not wait for a
        reference that was not announced. Where the local store takes the path, it waits for what is to come alone.
        """
        if self.past_server is not None:
            await self._take_past_server(self.past_server, session, hash_part, data)
        announced = partial(self.sessions.announced, session) if order is PushOrder.ANNOUNCED else None
        if self.into_store is None:
            to_come = announced if self.cache.settings.upstream_key_names else None
            published = await self.publisher.check_and_publish(session, hash_part, data, to_come)
        else:
            claim = await self.publisher.check(session, hash_part, data)
            published = await self.into_store.add(session, claim, all_to_come if order is PushOrder.ANY else announced)
        if published.first is not None:
            self.counters.kept_first.add()
        elif published.state is ObjectState.WAITING:
            self.counters.waiting.add()
        else:
            self.counters.published.add(1 + len(published.promoted))
            # Paths of the local store have no files for other programs.
            for path in () if self.into_store is not None else (hash_part, *published.promoted):
                await self.static_writer.want(self.static_side, path)
        return published

    async def take_what_waits(self) -> None:
        """As `IntoStore.take_what_waits`, where the local store takes what is pushed."""
        if self.into_store is not None:
            await self.into_store.take_what_waits(self.cache.id)

    async def stored(self, hash_part: HashPart) -> StoredObject | None:
        """The pushed object under this hash part, as readers of the cache see it."""
        found = await self.ports.objects.find(self.cache.id, hash_part)
        return found if found is not None and await self.view.allows(found.path_info) else None

    def note_refusal(self) -> None:
        """Count a narinfo or file whose claims were wrong."""
        self.counters.refused.add()

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count what is refused while the context lasts as `note_refusal` does."""
        try:
            yield
        except (FormatError, PushRefused):
            self.note_refusal()
            raise
