"""What upstreams said: in memory for a while, for this process and for all, and on disk beside each NAR that is kept.

A narinfo is on disk only while its NAR is: one that leads to nothing would stop a client that could have gone on to the
next cache. It is read back through the same doubts as when it came, because keys may have been withdrawn since.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from harmonia_py.cache.asking import Panel
from harmonia_py.cache.blobs import BlobKey
from harmonia_py.cache.kept import FileFacts, KeptFiles, key_of
from harmonia_py.cache.origin import KEPT, SourcedNarInfo
from harmonia_py.cache.trust import parse_narinfo, rests_on_contents
from harmonia_py.errors import UpstreamError
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.store_path import HashPart, StoreDir

_log = logging.getLogger(__name__)

# A narinfo takes some 2 KiB of memory, an absent path 100 bytes.
_MAX_PRESENT: Final = 8192
_MAX_ABSENT: Final = 65_536
# Another process may have kept a NAR meanwhile, or evicted one that was kept; so often is looked.
_LOOK_KEPT_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 10.0


@dataclass(slots=True)
class Remembered:
    """A narinfo of an upstream.

    Attributes:
        narinfo: as the upstream said it.
        upstream: its name.
        fetched: when it said so, in seconds since the epoch.
        max_age: for how long that is believed, in seconds.
        compression: of the file that is offered: the upstream's own, or "zstd" when it has been re-coded.
        facts: of that file, when it is kept.
        looked: when that was looked up, by the monotonic clock.
    """

    narinfo: NarInfo
    upstream: str
    fetched: float
    max_age: float
    compression: str
    facts: FileFacts | None = None
    looked: float = 0.0

    @property
    def url(self) -> NarUrl:
        """Where this cache offers the NAR."""
        info = self.narinfo.path_info
        return NarUrl(info.store_path.hash_part, info.nar_hash, self.compression)

    def is_fresh(self) -> bool:
        """Whether it is believed without asking again."""
        return 0 <= time.time() - self.fetched < self.max_age

    def published(self, origin: str | None = None) -> SourcedNarInfo:
        """The narinfo with the place of the NAR here."""
        narinfo = self.narinfo
        file_hash = file_size = None
        if self.facts is not None:
            file_hash, file_size = self.facts.file_hash, self.facts.file_size
        elif self.compression == narinfo.compression:
            file_hash, file_size = narinfo.file_hash, narinfo.file_size
        return SourcedNarInfo(
            path_info=narinfo.path_info,
            url=str(self.url),
            compression=self.compression,
            file_hash=file_hash,
            file_size=file_size,
            origin=origin or (KEPT if self.facts is not None else f"upstream {self.upstream}"),
        )


def narinfo_key(hash_part: HashPart) -> BlobKey:
    """Where the narinfo of a kept NAR is."""
    return BlobKey(f"{hash_part}.narinfo")


class NarinfoMemory:
    """The narinfos of one process, and those in shared memory and on disk that all share.

    A client that was told a narinfo by one worker asks for the NAR wherever its next connection leads.
    """

    def __init__(
        self,
        panel: Panel,
        kept: KeptFiles,
        store_dir: StoreDir,
        *,
        negative_ttl: float,
        texts: SharedTexts | None = None,
    ) -> None:
        self._panel = panel
        self._kept = kept
        self._store_dir = store_dir
        self._negative_ttl = negative_ttl
        self._texts = texts
        self._present: OrderedDict[HashPart, Remembered] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()

    async def find(self, hash_part: HashPart) -> Remembered | None:
        """What is remembered of a path, however old."""
        entry = self._present.get(hash_part)
        if entry is None:
            entry = await self._load(hash_part) or self._recall(hash_part)
            if entry is None:
                return None
            self._put(entry)
        elif entry.looked + (_LOOK_SECONDS if entry.facts is None else _LOOK_KEPT_SECONDS) < time.monotonic():
            await self.look(entry)
        return entry

    async def look(self, entry: Remembered) -> None:
        """See whether the NAR is kept; as zstd rather than otherwise."""
        entry.looked = time.monotonic()
        info = entry.narinfo.path_info
        compression, facts = "", None
        for compression in dict.fromkeys(("zstd", entry.narinfo.compression)):
            key = key_of(NarUrl(info.store_path.hash_part, info.nar_hash, compression))
            facts = await self._kept.facts(key)
            if facts is not None and rests_on_contents(info, self._store_dir) and facts.ca != str(info.ca):
                # It came when somebody vouched for its NarHash, without this address: it has to come once more.
                await self._kept.forget(key)
                facts = None
            if facts is not None:
                break
        # Together: others read the entry while this waits for the disk.
        entry.compression, entry.facts = compression, facts

    def remember(self, entry: Remembered) -> None:
        """Take in what an upstream said."""
        self._put(entry)
        if self._texts is not None:
            text = msgspec.json.encode(self._facts_of(entry))
            self._texts.put(narinfo_key(entry.narinfo.path_info.store_path.hash_part), text)

    def _put(self, entry: Remembered) -> None:
        hash_part = entry.narinfo.path_info.store_path.hash_part
        self._absent.pop(hash_part, None)
        self._present[hash_part] = entry
        self._present.move_to_end(hash_part)
        while len(self._present) > _MAX_PRESENT:
            self._present.popitem(last=False)

    def forget(self, hash_part: HashPart) -> None:
        """What was remembered has proved to be of no use."""
        self._present.pop(hash_part, None)
        if self._texts is not None:
            self._texts.remove(narinfo_key(hash_part))

    def note_absent(self, key: str) -> None:
        """No upstream has it: a path, by its hash part, or anything else that has a key."""
        self._absent.pop(key, None)
        self._absent[key] = time.monotonic() + self._negative_ttl
        while len(self._absent) > _MAX_ABSENT:
            self._absent.popitem(last=False)

    def is_absent(self, key: str) -> bool:
        """Whether it was absent a moment ago."""
        return self._absent.get(key, 0.0) > time.monotonic()

    async def keep(self, entry: Remembered) -> None:
        """Write a narinfo beside its NAR, which is kept."""
        await self._kept.note(narinfo_key(entry.narinfo.path_info.store_path.hash_part), self._facts_of(entry))

    def _facts_of(self, entry: Remembered) -> dict[str, str]:
        return {
            "narinfo": entry.narinfo.format(self._store_dir).decode(),
            "upstream": entry.upstream,
            "fetched": str(entry.fetched),
            "max_age": str(entry.max_age),
        }

    def _recall(self, hash_part: HashPart) -> Remembered | None:
        """What another worker was told a while ago."""
        text = None if self._texts is None else self._texts.get(narinfo_key(hash_part))
        if text is None:
            return None
        try:
            entry = self._parse(msgspec.json.decode(text, type=dict[str, str]), hash_part)
        except (KeyError, ValueError, UpstreamError, msgspec.MsgspecError):
            return None  # a reload has brought other keys, or other upstreams
        entry.looked = time.monotonic()  # its narinfo would be on disk, and is not
        return entry

    async def _load(self, hash_part: HashPart) -> Remembered | None:
        metadata = await self._kept.metadata(narinfo_key(hash_part))
        if metadata is None:
            return None
        try:
            entry = self._parse(metadata, hash_part)
        except (KeyError, ValueError, UpstreamError) as error:
            _log.info("%s: what is kept is not served: %s", hash_part, error)
            return None
        await self.look(entry)
        return entry if entry.facts is not None else None

    def _parse(self, metadata: Mapping[str, str], hash_part: HashPart) -> Remembered:
        upstream = metadata["upstream"]
        asked = self._panel.find(upstream)
        if asked is None:
            raise ValueError(f"upstream {upstream} is not configured any more")
        keys = asked.upstream.public_keys
        narinfo = parse_narinfo(metadata["narinfo"].encode(), hash_part, keys, self._store_dir)
        return Remembered(
            narinfo, upstream, float(metadata["fetched"]), float(metadata["max_age"]), narinfo.compression
        )
