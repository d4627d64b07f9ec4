"""`IndexedNarInfo`: a narinfo of an upstream, and what is known here of its NAR."""

import time

from msgspec import Struct

from harmonia_py.cache.found import KEPT, Found, Origin, from_upstream
from harmonia_py.cache.validity import Validity
from harmonia_py.catalog.mirrored import UpstreamNarInfo
from harmonia_py.contents.kept_files import FileFacts
from harmonia_py.nix.narinfo import NarInfo, NarUrl


class IndexedNarInfo(Struct):
    """A narinfo of an upstream.

    Attributes:
        narinfo: as the upstream said it.
        upstream: its name.
        fetched: when it said so, in seconds since the epoch.
        max_age: for how long the narinfo is believed, in seconds.
        compression: of the file that is offered: the upstream's own, or "zstd" when it has been re-coded.
        facts: of the offered file; None when it is not kept.
        looked: when the last look for a kept file began, by the monotonic clock.
        validity: how long `facts` is right; None when that is unknown.
        looks: how many such looks have begun.
        look: the number of the look that `compression`, `facts` and `validity` are from.
    """

    narinfo: NarInfo
    upstream: str
    fetched: float
    max_age: float
    compression: str
    facts: FileFacts | None = None
    looked: float = 0.0
    validity: Validity | None = None
    looks: int = 0
    look: int = 0

    @property
    def url(self) -> NarUrl:
        """The URL at which this cache offers the NAR."""
        info = self.narinfo.path_info
        return NarUrl(info.store_path.hash_part, info.nar_hash, self.compression)

    def is_fresh(self) -> bool:
        """Whether the narinfo is believed without asking its upstream again."""
        return 0 <= time.time() - self.fetched < self.max_age

    def published(self, origin: Origin | None = None) -> Found:
        """The narinfo as this cache gives it, with its own URL; `origin` None: by whether the NAR is kept."""
        narinfo = self.narinfo
        file_hash = file_size = None
        if self.facts is not None:
            file_hash, file_size = self.facts.file_hash, self.facts.file_size
        elif self.compression == narinfo.compression:
            file_hash, file_size = narinfo.file_hash, narinfo.file_size
        published = NarInfo(
            path_info=narinfo.path_info,
            url=str(self.url),
            compression=self.compression,
            file_hash=file_hash,
            file_size=file_size,
        )
        if origin is None:
            origin = KEPT if self.facts is not None else from_upstream(self.upstream)
        return Found(published, origin, self._validity())

    def _validity(self) -> Validity | None:
        """The answer is right while the narinfo is fresh and the kept file stays; None: unknown."""
        if self.validity is None or self.facts is None:
            return None
        left = self.fetched + self.max_age - time.time()
        return Validity(time.monotonic() + left, self.validity.epochs)

    @property
    def upstream_narinfo(self) -> UpstreamNarInfo:
        """The part of it that the catalog keeps."""
        return UpstreamNarInfo(narinfo=self.narinfo, upstream=self.upstream, fetched=self.fetched, max_age=self.max_age)

    @property
    def memory(self) -> int:
        """How many bytes of memory it takes, more or less."""
        narinfo, info = self.narinfo, self.narinfo.path_info
        strings = len(narinfo.url) + len(str(info.ca or "")) + len(info.deriver or "")
        references = sum(len(reference) + 64 for reference in info.references)
        signatures = sum(len(signature.key_name) + 256 for signature in info.signatures)
        return 2048 + strings + references + signatures
