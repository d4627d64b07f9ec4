"""Narinfos of upstreams: for a while in memory, of a process and of all, and in the catalog while their NARs are kept.

A narinfo that leads to no NAR would stop a client that could have gone on to the next cache: so the catalog has one
only while the NAR is kept. It is verified again when it is read back, because keys may have been withdrawn since.
"""

import logging
import time
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct, field

from harmonia_py.cache.trust import rests_on_contents
from harmonia_py.catalog.kept import Kept
from harmonia_py.catalog.kept_mirrored import KeptMirrored
from harmonia_py.catalog.kept_objects import is_kept_at
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.kept_files import UNKNOWN, key_of
from harmonia_py.errors import UpstreamError
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.mirror.indexed_narinfo import IndexedNarInfo
from harmonia_py.mirror.trusted import doubt, parse_narinfo
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.runtime.bounded import BoundedBytes, TimedSet

_log = logging.getLogger(__name__)

# All narinfos of one process together. One of five references and two signatures takes some 3 KiB, so these are ten
# thousand; an absent path takes 100 bytes.
_MAX_PRESENT_BYTES: Final = 32 * 1024 * 1024
_MAX_ABSENT: Final = 65_536
# Between two looks whether a NAR is kept, where the catalog cannot tell when that changes.
_LOOK_SECONDS: Final = 10.0


class _Shared(Struct, frozen=True, array_like=True):
    """A narinfo, as text, in the memory that workers share."""

    narinfo: str
    upstream: str
    fetched: float
    max_age: float


def narinfo_key(hash_part: HashPart) -> BlobKey:
    """The key of a narinfo in the memory that workers share."""
    return BlobKey(f"{hash_part}.narinfo")


class NarinfoIndex(Struct, eq=False):
    """The narinfos of one process, and those in shared memory and in the catalog, which all processes share.

    They must be shared: a client that got a narinfo from one worker may ask another one for the NAR.

    Attributes:
        upstreams: whose narinfos they are.
        kept: the facts of kept files.
        kept_mirrored: the narinfos in the catalog.
        store_dir: of the paths.
        negative_ttl: seconds for which it is remembered that something is absent.
        texts: shared memory; None for a process that shares none.
    """

    upstreams: Upstreams
    kept: Kept
    kept_mirrored: KeptMirrored
    store_dir: StoreDir
    negative_ttl: float
    texts: SharedTexts | None = None
    _present: BoundedBytes[HashPart, IndexedNarInfo] = field(
        default_factory=lambda: BoundedBytes(_MAX_PRESENT_BYTES, lambda entry: entry.memory)
    )
    _absent: TimedSet[str] = field(default_factory=lambda: TimedSet(_MAX_ABSENT))

    async def find(self, hash_part: HashPart) -> IndexedNarInfo | None:
        """The remembered narinfo of a path, however old; None when none is."""
        entry = self._present.get(hash_part)
        if entry is None:
            # While the catalog was asked, the narinfo may have come.
            entry = await self._load(hash_part) or self._present.get(hash_part) or self._recall(hash_part)
            if entry is None:
                return None
            self._put(entry)
        elif not self._is_known(entry):
            await self.look(entry)
        return entry

    async def find_narinfo(self, hash_part: HashPart) -> IndexedNarInfo | None:
        """As `find`, for the upstream's narinfo alone: whether its NAR is kept may have changed."""
        return self._present.get(hash_part) or await self.find(hash_part)

    def newer_than(self, entry: IndexedNarInfo) -> IndexedNarInfo | None:
        """The narinfo of the same path that this process has got since `entry`."""
        present = self._present.get(entry.narinfo.path_info.store_path.hash_part)
        return present if present is not None and present.fetched > entry.fetched else None

    def _is_known(self, entry: IndexedNarInfo) -> bool:
        """Whether what the entry says of the kept file is still right, so that no look is needed."""
        self.kept.epochs()
        now = time.monotonic()
        if entry.validity is not None:
            return entry.validity.holds(now)
        return entry.looked + _LOOK_SECONDS >= now

    async def look(self, entry: IndexedNarInfo, *, lately: bool = False) -> None:
        """Look whether the NAR is kept, and note it in the entry; a zstd file comes before the upstream's own.

        `lately`: as in `Kept.find`. The next look finds what has come meanwhile.
        """
        entry.looked = time.monotonic()
        entry.looks += 1
        look = entry.looks
        info = entry.narinfo.path_info
        compression, known = "", UNKNOWN
        for compression in dict.fromkeys(("zstd", entry.narinfo.compression)):
            key = key_of(NarUrl(info.store_path.hash_part, info.nar_hash, compression))
            known = await self.kept.find(key, lately=lately)
            facts = known.facts
            if facts is not None and rests_on_contents(info, self.store_dir) and facts.ca != str(info.ca):
                # The file was kept when a signature vouched for its NarHash, and was not held against this content
                # address: it has to be fetched once more.
                await self.kept.forget(key)
                known = UNKNOWN
            if known.facts is not None:
                break
        # All at once, after the waiting: other tasks read the entry meanwhile. A later look has seen more.
        if look > entry.look:
            entry.look, entry.compression, entry.facts, entry.validity = look, compression, known.facts, known.validity

    def remember(self, entry: IndexedNarInfo) -> None:
        """Take in a narinfo of an upstream, for all processes."""
        self._put(entry)
        if self.texts is not None:
            shared = _Shared(
                entry.narinfo.format(self.store_dir).decode(), entry.upstream, entry.fetched, entry.max_age
            )
            self.texts.put(narinfo_key(entry.narinfo.path_info.store_path.hash_part), msgspec.json.encode(shared))

    def _put(self, entry: IndexedNarInfo) -> None:
        hash_part = entry.narinfo.path_info.store_path.hash_part
        self._absent.pop(hash_part, None)
        self._present.put(hash_part, entry)

    def forget(self, hash_part: HashPart) -> None:
        """Drop the narinfo of a path, whose NAR cannot be had by it."""
        self._present.drop(hash_part)
        if self.texts is not None:
            self.texts.remove(narinfo_key(hash_part))

    def note_absent(self, key: str) -> None:
        """Remember for a while that no upstream has a path, by its hash part, or another thing, by a key of its own."""
        self._absent.add(key, self.negative_ttl)

    def forget_absent(self, key: str) -> None:
        """Forget what `note_absent` was told."""
        self._absent.pop(key, None)

    def is_absent(self, key: str) -> bool:
        """Whether `note_absent` was told so a moment ago."""
        return self._absent.holds(key)

    async def enter(self, entry: IndexedNarInfo, url: NarUrl, metadata: Mapping[str, str] | None = None) -> None:
        """Enter the NAR, which is now kept at `url`, in the catalog, and note it in the entry.

        Args:
            entry: the narinfo.
            url: of the NAR.
            metadata: that the file has just been kept with; None to look at the file.
        """
        await self.kept_mirrored.keep(key_of(url), entry.upstream_narinfo, metadata)
        await self.look(entry)

    async def renew(self, entry: IndexedNarInfo) -> None:
        """Renew the narinfo of a kept NAR in the catalog, or enter the NAR anew when the narinfo has changed."""
        theirs = entry.upstream_narinfo
        kept = await self.kept_mirrored.find(entry.narinfo.path_info.store_path.hash_part)
        if (
            kept is not None
            and is_kept_at(kept.stored, key_of(entry.url))
            and kept.upstream_narinfo.narinfo == theirs.narinfo
        ):
            await self.kept_mirrored.refresh(theirs)
        else:
            await self.kept_mirrored.keep(key_of(entry.url), theirs)

    def _recall(self, hash_part: HashPart) -> IndexedNarInfo | None:
        """The narinfo that another worker got a while ago, from shared memory."""
        text = None if self.texts is None else self.texts.get(narinfo_key(hash_part))
        if text is None:
            return None
        shared = msgspec.json.decode(text, type=_Shared)
        state = self.upstreams.find(shared.upstream)
        if state is None:
            return None  # a reload has brought other upstreams
        try:
            narinfo = parse_narinfo(shared.narinfo.encode(), hash_part, state.upstream.public_keys, self.store_dir)
        except UpstreamError:
            return None  # a reload has brought other keys
        entry = IndexedNarInfo(narinfo, shared.upstream, shared.fetched, shared.max_age, narinfo.compression)
        entry.looked = time.monotonic()  # its NAR is not kept: `_load` has found no row
        return entry

    async def _load(self, hash_part: HashPart) -> IndexedNarInfo | None:
        kept = await self.kept_mirrored.find(hash_part)
        if kept is None:
            return None
        theirs = kept.upstream_narinfo
        state = self.upstreams.find(theirs.upstream)
        if state is None:
            reason: str | None = f"upstream {theirs.upstream} is not configured any more"
        else:
            reason = doubt(theirs.narinfo, state.upstream.public_keys, self.store_dir)
        if reason is not None:
            _log.info("%s: what is kept is not served: %s", hash_part, reason)
            return None
        narinfo = theirs.narinfo
        entry = IndexedNarInfo(narinfo, theirs.upstream, theirs.fetched, theirs.max_age, narinfo.compression)
        await self.look(entry)
        return entry if entry.facts is not None else None
