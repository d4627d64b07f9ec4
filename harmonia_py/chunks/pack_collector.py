"""Packs with many unused bytes are written anew without them; packs that nothing uses go.

Used bytes are counted from the uses of chunks. The old pack stays for a while, because readers may have looked up a
place in it.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.chunks.catalog import PACK_BYTES, Pack, PackedChunk
from harmonia_py.chunks.chunked_files import NoteLostChunk
from harmonia_py.chunks.growing_pack import ChunkStorage, GrowingPack
from harmonia_py.chunks.pack_frames import frames_of, is_right
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.errors import StorageError
from harmonia_py.runtime.threads import in_thread

_log = logging.getLogger(__name__)

USED_SHARE: Final = 0.5
"""A pack with a smaller share of used bytes is written anew: at a half, as many bytes become free as are written."""
LIMITED_USED_SHARE: Final = 0.75
"""As `USED_SHARE`, in what is held to a size: packs have at most a third more than is needed."""
# Packs that are shorter than this share of a full one are joined, when there are so many of them.
_SHORT_SHARE: Final = 0.5
_MANY_SHORT: Final = 8
# Rows of one transaction.
_USES: Final = 4096
# Packs that are looked at in a pass, of some thousand chunks each.
_LOOKED_AT: Final = 16
_MOST_BATCHES: Final = 10_000
GRACE_SECONDS: Final = 600
"""How long a pack stays that was written anew: a reader opens it right after it has looked up a place."""
SET_ASIDE_SECONDS: Final = 600
"""How long a pack that cannot be read for now is left alone: a bucket that was busy answers again by then."""
# Where more cannot be read, the storage is at fault rather than packs; a bucket answers after a minute that it is away.
_MOST_SET_ASIDE: Final = 2


class PacksCollected(Struct, frozen=True):
    """The figures of a pass.

    Attributes:
        uses: uses of chunks that were dropped.
        removed: packs that were removed.
        removed_bytes: bytes of these packs.
        written_bytes: bytes that were written into new packs.
        set_aside: packs that could not be read, and are tried again after `SET_ASIDE_SECONDS`.
        has_more: whether more packs may be waiting to be looked at.
        emptied_bytes: bytes of the removed packs that were written anew and stay for a while; the others are garbage.
    """

    uses: int = 0
    removed: int = 0
    removed_bytes: int = 0
    written_bytes: int = 0
    set_aside: int = 0
    has_more: bool = False
    emptied_bytes: int = 0


class _CannotBeRead(StorageError):
    """A pack, or a part of it, cannot be read for now, which says nothing of its bytes."""


class PackCollector(Struct, frozen=True, eq=False):
    """Looks after packs. It is used under the lock of the collector.

    Attributes:
        storage: of the chunks.
        note_lost: is told of chunks that cannot be moved, because their bytes are missing or wrong.
        used_share: gives the share of used bytes below which a pack is written anew.
        grace_seconds: how long a pack stays that was written anew.
    """

    storage: ChunkStorage
    note_lost: NoteLostChunk
    used_share: Callable[[], float]
    grace_seconds: int

    async def run(self) -> PacksCollected:
        """One pass: drop uses, look at packs that have lost some, write at most one pack anew.

        Raises:
            StorageError: nothing can be written, or the catalog cannot tell; what was done before stays done.
        """
        uses = 0
        for _ in range(_MOST_BATCHES):
            dropped = await self.storage.packs.drop_uses(_USES, now=self.storage.now())
            uses += dropped
            if not dropped:
                break
        looked_at = await self.storage.packs.to_look_at(_LOOKED_AT, now=self.storage.now())
        unused, sparse, short = [], [], []
        used_share = self.used_share()
        for pack in looked_at:
            used = _used(pack)
            if not used:
                unused.append(pack)
            elif used < used_share * pack.size:
                sparse.append(pack)
            elif pack.size < _SHORT_SHARE * PACK_BYTES:
                short.append(pack)
                if used != pack.used_size:
                    await self.storage.packs.keep(pack.key, used, look_at=self.storage.now())
            else:
                await self.storage.packs.keep(pack.key, used)
        old = sparse + (short if sparse or len(short) >= _MANY_SHORT else [])
        # First: where there is no room to write a pack, these make some.
        await self._remove(unused, self.storage.now())
        written, emptied, set_aside = await self._write_anew(old) if old else (0, [], 0)
        await self._remove(emptied, Timestamp(self.storage.now() + self.grace_seconds))
        removed = [*unused, *emptied]
        return PacksCollected(
            uses,
            removed=len(removed),
            removed_bytes=sum(pack.size for pack in removed),
            written_bytes=written,
            set_aside=set_aside,
            has_more=len(looked_at) == _LOOKED_AT,
            emptied_bytes=sum(pack.size for pack in emptied),
        )

    async def _remove(self, packs: Sequence[Pack], garbage_from: Timestamp) -> None:
        if packs:
            keys, now = [pack.key for pack in packs], self.storage.now()
            await self.storage.packs.move(keys, now=now, garbage_from=garbage_from)

    async def _write_anew(self, packs: Sequence[Pack]) -> tuple[int, list[Pack], int]:
        """Write the used chunks of some packs into one.

        Returns its length, the packs that it replaces, and how many were set aside.
        """
        new = await GrowingPack.begin(self.storage)
        try:
            emptied: list[Pack] = []
            lossy: list[Pack] = []
            set_aside: list[Pack] = []
            for pack in packs:
                if (emptied and new.size + _used(pack) > PACK_BYTES) or len(set_aside) == _MOST_SET_ASIDE:
                    break
                try:
                    (emptied if await self._copy(pack, new) else lossy).append(pack)
                except _CannotBeRead as error:
                    _log.warning("%s cannot be written anew for now, and is set aside: %s", pack.key, error)
                    set_aside.append(pack)
            await new.put()
            await self._keep(lossy, set_aside, new.chunks)
            return new.size, emptied, len(set_aside)
        finally:
            await new.close()

    async def _keep(self, lossy: Sequence[Pack], set_aside: Sequence[Pack], moved: Collection[ChunkHash]) -> None:
        """Leave packs as they are without the chunks that were moved, until lost chunks come again, or for a while."""
        again = Timestamp(self.storage.now() + SET_ASIDE_SECONDS)
        for packs, look_at in ((lossy, None), (set_aside, again)):
            for pack in packs:
                used = sum(chunk.size for chunk in pack.chunks if chunk.is_used and chunk.chunk not in moved)
                await self.storage.packs.keep(pack.key, used, look_at=look_at)

    async def _copy(self, pack: Pack, new: GrowingPack) -> bool:
        """Copy the used chunks of a pack that are right; returns whether all of them were.

        Raises:
            _CannotBeRead: some cannot be read for now. Those before them were copied.
        """
        try:
            blob = await self.storage.blobs.open(BlobKey(pack.key))
        except StorageError as error:
            raise _CannotBeRead(str(error)) from error
        if blob is None:
            # One chunk stands for all of the pack.
            one = next(chunk for chunk in pack.chunks if chunk.is_used)
            await self.note_lost(one.chunk, "its pack is missing", True)
            return False
        with blob:
            wrong = await in_thread(self.storage.threads, partial(_copy, blob, pack, new))
        for chunk in wrong:
            await self.note_lost(chunk.chunk, "its bytes are missing or wrong", False)
        return not wrong


def _used(pack: Pack) -> int:
    return sum(chunk.size for chunk in pack.chunks if chunk.is_used)


def _copy(blob: Blob, pack: Pack, new: GrowingPack) -> list[PackedChunk]:
    """Copy the used frames of a pack into a new one; returns the chunks that are wrong."""
    wrong = []
    for chunk, frame in _frames_of(blob, [chunk for chunk in pack.chunks if chunk.is_used]):
        if frame is None or not is_right(frame, chunk):
            wrong.append(chunk)
        else:
            new.add(chunk.chunk, frame)
    return wrong


def _frames_of(blob: Blob, chunks: Sequence[PackedChunk]) -> Iterator[tuple[PackedChunk, memoryview | None]]:
    """As `frames_of`; an error of reading is told from one of writing what was read."""
    try:
        yield from frames_of(blob, chunks)
    except StorageError as error:
        raise _CannotBeRead(str(error)) from error
