"""NARs that clients push as recipes, with those chunks alone that the cache lacks.

A client asks for the bases of a path: paths of the cache in chunks that it is likely to share some with. It cuts its
NAR as the job here cuts them, asks which chunks the bases lack, and sends these with a recipe. The file of the NAR is
made by it, as a download of a NAR in chunks is made, and taken in as every pushed file is: nothing is published that
was not hashed whole. The chunks that came are forgotten with the request: the job makes chunks of the file when it is
due.

What is told and used are chunks of paths of this cache, to principals that may read it, and what was sent in the same
request. So a recipe leads to no bytes that its sender could not have by downloading.
"""

from collections.abc import AsyncIterator, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Final

from msgspec import Struct

from harmonia_py.cache.source import Pause
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.bases import MAX_BASES
from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.nars import NarFile
from harmonia_py.chunks.catalog import Chunks
from harmonia_py.chunks.chunked_files import ChunkedFiles
from harmonia_py.chunks.recipe import ChunkHash, Recipe
from harmonia_py.chunks.sent_chunks import SentChunks
from harmonia_py.chunks.windows import ChunksUnknown
from harmonia_py.contents.blobs import SpooledFile
from harmonia_py.contents.nar_check import NarBounds
from harmonia_py.contents.pieces import portions
from harmonia_py.contents.spool import Spool
from harmonia_py.errors import FormatError, HarmoniaError, PushConflict, PushRefused, PushTooLarge, StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart
from harmonia_py.push.making import Making
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.push_metrics import PushCounters
from harmonia_py.push.receiving import PushSession, Receiver
from harmonia_py.push.recipe_body import RecipeBody
from harmonia_py.push.room import RoomForPushes
from harmonia_py.push.upload_check import MadeUpload
from harmonia_py.runtime.threads import in_thread

MAX_ASKED_CHUNKS: Final = 10_000
"""Chunks in one question: those of a NAR of 1.2 GiB."""
MAX_ASKED_NAMES: Final = 100
"""Names in one question, each of which is looked up three times."""
# A file made of few bytes that are repeated for ever costs its sender nothing, and the disk all: what repeats itself
# more often than this is to be sent whole, as compression makes that small.
_MOST_REPEATED: Final = 8
_NOT_COUNTED_BYTES: Final = 16 * 1024 * 1024
# A few bytes of zeros unpacked for a minute: of a file that is sent, its sender would have had to make them.
_MOST_UNPACKED: Final = 64
_NOT_COUNTED_NAR_BYTES: Final = 1024 * 1024 * 1024


class RecipeUploads(Struct, frozen=True, eq=False):
    """The recipes that clients push to one cache.

    Attributes:
        cache: that they come to.
        ports: which paths others may share chunks with, and which NARs are here.
        chunks: the chunks of all caches.
        files: makes files of chunks.
        spool: for chunks that come.
        receiver: takes in the files that are made.
        room: of the cache.
        counters: of pushes to all caches.
        usage: of this cache.
        making: the recipes of all caches that this process has in hand.
    """

    cache: CacheId
    ports: PushPorts
    chunks: Chunks
    files: ChunkedFiles
    spool: Spool
    receiver: Receiver
    room: RoomForPushes
    counters: PushCounters
    usage: CacheUsage
    making: Making

    async def bases(self, session: PushSession, names: Collection[str]) -> Mapping[str, Sequence[HashPart]]:
        """The bases of paths by their names. They stay as long as the session lives, and so do their chunks.

        Raises:
            StorageError: the catalog cannot tell.
        """
        found = await self.ports.bases.like(session.cache, session.id, names, now=self.ports.now())
        return {name: [base.hash_part for base in bases] for name, bases in found.items()}

    async def missing(self, chunks: Sequence[ChunkHash], bases: Collection[HashPart]) -> Sequence[ChunkHash]:
        """Those of the chunks that none of the bases has, in the order of the question.

        Raises:
            StorageError: it cannot be told.
        """
        asked = dict.fromkeys(chunks)
        known = await self._known(asked, bases)
        return [chunk for chunk in asked if chunk not in known]

    async def receive(
        self,
        session: PushSession,
        nar_hash: Hash,
        sent_bytes: int,
        body: AsyncIterator[bytes],
        bases: Collection[HashPart],
    ) -> NarFile | None:
        """Make a file by the recipe of a client, and take it in; None while that goes on: the client asks `made`.

        Args:
            session: of the client.
            nar_hash: of the NAR.
            sent_bytes: bytes of the chunks that come before the recipe.
            body: these chunks, one frame behind the other, and the recipe.
            bases: paths that have the other chunks.

        Raises:
            FormatError: it is no recipe, or the chunks are others than it says.
            PushConflict: a chunk is not here any more.
            PushRefused: no such file is made: the client sends the NAR whole.
            QuotaExceeded: there is no room for the file.
            Overloaded: this process has too many recipes in hand.
            StorageError: it cannot be made, or not be kept.
        """
        key, making, give_back = self._key(session, nar_hash), self.making, self.making.take(session.principal)
        arrived: RecipeBody | None = None
        is_taken = False

        async def make() -> None:
            nonlocal is_taken
            is_taken = True
            assert arrived is not None
            making.begins(key)
            try:
                async with making.turn:
                    await self._make(session, nar_hash, arrived, bases)
            except HarmoniaError as error:
                making.fails(key, error)
                raise
            finally:
                give_back()
                await arrived.close()

        try:
            arrived = await RecipeBody.receive(self.spool, self.ports.threads, sent_bytes, body)
            if not await making.checks.is_done(key, make):
                return None
            return await self._file(session, nar_hash)
        finally:
            if not is_taken:
                give_back()
                if arrived is not None:
                    await arrived.close()

    async def made(self, session: PushSession, nar_hash: Hash) -> NarFile | None:
        """The file of a NAR that `receive` had to be left alone with; None while that goes on, here or elsewhere.

        Raises what `receive` raises, where a worker of this machine made the file.
        """
        key = self._key(session, nar_hash)
        checking = self.making.checks.under_way(key)
        if checking is not None:
            if not await checking:
                return None
        elif (failure := self.making.failure(key)) is not None:
            raise failure
        return (await self._files_of(session, nar_hash)).get(nar_hash)

    async def _file(self, session: PushSession, nar_hash: Hash) -> NarFile:
        file = (await self._files_of(session, nar_hash)).get(nar_hash)
        if file is None:
            raise PushConflict("the file was here, and went at once: send it again")
        return file

    async def _files_of(self, session: PushSession, nar_hash: Hash) -> Mapping[Hash, NarFile]:
        return await self.ports.sessions.nars(session.cache, session.id, [nar_hash], now=self.ports.now())

    def _key(self, session: PushSession, nar_hash: Hash) -> str:
        return f"{session.cache}\0{session.principal}\0{nar_hash}"

    async def _make(
        self, session: PushSession, nar_hash: Hash, arrived: RecipeBody, bases: Collection[HashPart]
    ) -> None:
        said, most = await arrived.recipe(), session.most
        if said.nar_hash != nar_hash:
            raise FormatError("the recipe is of another NAR than the URL")
        if said.nar_size > most:
            raise PushTooLarge(f"this NAR is {said.nar_size} bytes, and {most} are taken at the most")
        sizes = await in_thread(self.ports.threads, said.chunk_sizes)
        known = await self._known(sizes, bases)
        if any(sizes[chunk] != size for chunk, size in known.items()):
            # Otherwise a chunk that is right would be found to be too long or too short.
            raise FormatError("a chunk has another length than the recipe says")
        kept = await self._kept(known)
        sent = await self._sent(
            said, arrived.file, {chunk: size for chunk, size in sizes.items() if chunk not in known}
        )
        frame_sizes = {**kept, **{chunk: place.size for chunk, place in sent.places.items()}}
        recipe = await in_thread(self.ports.threads, partial(said.with_frames, frame_sizes))
        if recipe.file_size > _MOST_REPEATED * sum(frame_sizes.values()) + _NOT_COUNTED_BYTES:
            raise PushRefused("this recipe repeats chunks over and over: send the NAR whole")
        if recipe.nar_size > _MOST_UNPACKED * recipe.file_size + _NOT_COUNTED_NAR_BYTES:
            raise PushRefused(
                "this NAR is many times as long as its chunks are when they are compressed: send it whole"
            )
        await self.room.check(recipe.file_size)
        with self.room.arriving(recipe.file_size):
            await self._take_in(session, recipe, sent)
        self.counters.files.add()
        self.counters.bytes.add(recipe.file_size)
        self.usage.pushed_nars.add()
        await self.room.came(recipe.file_size)

    async def _take_in(self, session: PushSession, recipe: Recipe, sent: SentChunks) -> None:
        upload = MadeUpload(recipe.nar_hash, recipe.file_size, NarBounds(nar_size=recipe.nar_size))
        try:
            with (
                self.files.made_with(recipe, sent) as download,
                closing(_made(portions(download.pieces(0, None)))) as pieces,
            ):
                await self.receiver.receive_made(session, upload, recipe.file_size, pieces)
        except FormatError as error:
            raise PushRefused(f"the NAR that this recipe makes is not right: {error}: send it whole") from error

    async def _known(self, wanted: Mapping[ChunkHash, object], bases: Collection[HashPart]) -> Mapping[ChunkHash, int]:
        """The wanted chunks that are in bases, with their lengths."""
        known: dict[ChunkHash, int] = {}
        for base in await self.ports.bases.find(self.cache, list(dict.fromkeys(bases))[:MAX_BASES]):
            try:
                recipe = await self.files.recipe(base.recipe)
            except ChunksUnknown:
                raise
            except StorageError:  # the recipe is damaged: other bases do
                continue
            if recipe is not None:
                known |= await in_thread(self.ports.threads, partial(_shared, recipe, wanted))
        return known

    async def _kept(self, chunks: Iterable[ChunkHash]) -> Mapping[ChunkHash, int]:
        """The lengths of the frames of chunks that are kept."""
        wanted = list(chunks)
        places = await self.chunks.scan_places(wanted)
        if len(places) < len(wanted):
            raise _gone("its bytes are lost")
        return {chunk: place.size for chunk, place in places.items()}

    async def _sent(self, recipe: Recipe, file: SpooledFile | None, sizes: Mapping[ChunkHash, int]) -> SentChunks:
        frame_sizes = recipe.chunks()
        wanted = sum(frame_sizes[chunk] for chunk in sizes)
        came = 0 if file is None else file.size
        if came != wanted:
            raise _gone(f"{came} bytes of chunks came, and {wanted} are needed")
        check = partial(SentChunks.checked, file, sizes, frame_sizes)
        return await in_thread(self.ports.threads, check)


def _shared(recipe: Recipe, wanted: Mapping[ChunkHash, object]) -> dict[ChunkHash, int]:
    return {chunk: size for chunk, size in recipe.chunk_sizes().items() if chunk in wanted}


def _made(
    pieces: Generator[bytes | memoryview | Pause, None, None],
) -> Generator[bytes | memoryview | Pause, None, None]:
    """The pieces of a file; a chunk that cannot be had is told from all else that may fail while they are taken in."""
    with closing(pieces):
        try:
            yield from pieces
        except ChunksUnknown:
            raise
        except StorageError as error:
            raise _gone("its bytes are lost") from error


def _gone(reason: str) -> PushConflict:
    return PushConflict(f"a chunk of this recipe is not here, or not any more ({reason}): send the NAR whole")
