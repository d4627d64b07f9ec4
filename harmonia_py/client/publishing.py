"""The order in which a round publishes paths: each after its references. Decided from values alone."""

from collections.abc import Iterable, Sequence

from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart


class Publishing:
    """Paths that are being sent, until each is settled or has failed.

    Args:
        wanted: the paths, references first; their other references are in the cache.
    """

    def __init__(self, wanted: Iterable[PathInfo]) -> None:
        self._waits = {info.store_path.hash_part: info for info in wanted}
        self._sent: dict[HashPart, NarInfo] = {}
        self._failed: set[HashPart] = set()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return not self._waits

    def sent(self, narinfo: NarInfo) -> None:
        """Note that the cache has the file of a path."""
        self._sent[narinfo.path_info.store_path.hash_part] = narinfo

    def batch(self, most: int) -> Sequence[NarInfo]:
        """Up to `most` paths that can be published together, in this order."""
        found: dict[HashPart, NarInfo] = {}
        # `_waits` has references first, so one pass also finds paths whose references are in this batch.
        for hash_part, info in self._waits.items():
            if len(found) == most:
                break
            narinfo = self._sent.get(hash_part)
            if narinfo is not None and not self._references(info) - found.keys():
                found[hash_part] = narinfo
        return list(found.values())

    def settled(self, hash_part: HashPart) -> None:
        """Note that the path is published, or left to the next round."""
        self._forget(hash_part)

    def failed(self, hash_part: HashPart) -> None:
        """Note that the path, and with it every path that refers to it, cannot be published."""
        self._forget(hash_part)
        self._failed.add(hash_part)

    def has_failed_reference(self, info: PathInfo) -> bool:
        """Whether a reference of this path has failed, and with it the path."""
        return any(path.hash_part in self._failed for path in info.references)

    def broken(self) -> Sequence[PathInfo]:
        """Paths that are not settled, one of whose references has failed."""
        return [info for info in self._waits.values() if self.has_failed_reference(info)]

    def _references(self, info: PathInfo) -> set[HashPart]:
        """The references that are not settled yet, without the path itself."""
        own = info.store_path.hash_part
        return {path.hash_part for path in info.references if path.hash_part in self._waits and path.hash_part != own}

    def _forget(self, hash_part: HashPart) -> None:
        self._waits.pop(hash_part, None)
        self._sent.pop(hash_part, None)
