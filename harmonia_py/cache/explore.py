"""What people want to know of a store and no client asks: the port `Explorer`, and the index that a search looks into.

Everything here is bounded: a search finds so many paths, a traversal visits so many, and both say when there are more.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Final, Protocol

from harmonia_py.nix.store_path import HASH_PART_LENGTH, StorePath

# One call that sorts a hundred thousand strings would stop every thread for its whole duration.
_SORTED_AT_ONCE: Final = 2000


@dataclass(frozen=True, slots=True)
class Found:
    """Store paths that match, the best first; `more` when there are others."""

    paths: tuple[StorePath, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Closure:
    """A store path and everything it refers to, directly or not.

    Attributes:
        paths: how many, itself included.
        nar_size: the sum of their NAR sizes in bytes.
        complete: False when there is more than was visited.
    """

    paths: int
    nar_size: int
    complete: bool


class Explorer(Protocol):
    """Questions about valid store paths. Who cannot tell raises a `HarmoniaError`."""

    async def count(self) -> int | None:
        """How many paths are valid; None when that takes too long to find out now."""

    async def search(self, query: str, limit: int) -> Found:
        """At most `limit` paths whose hash part begins with `query`, or whose name begins with it or contains it."""

    async def referrers(self, store_path: StorePath) -> tuple[StorePath, ...]:
        """The other paths that refer to `store_path`, by name."""

    async def closure(self, store_path: StorePath) -> Closure | None:
        """The closure of a valid path; None when that takes too long to find out now: ask again."""


class PathIndex:
    """Store paths as one string, which is searched at the speed of memory and takes little more than their characters.

    A line for each, sorted by name: a line feed, the name, a tab, the hash part.
    """

    def __init__(self, paths: Iterable[StorePath]) -> None:
        lines = [f"{path[HASH_PART_LENGTH + 1 :]}\t{path[:HASH_PART_LENGTH]}" for path in paths]
        self.count = len(lines)
        parts = range(0, len(lines), _SORTED_AT_ONCE)
        sorted_parts = [sorted(lines[start : start + _SORTED_AT_ONCE], key=str.lower) for start in parts]
        self._text = "\n" + "".join([f"{line}\n" for line in merge(*sorted_parts, key=str.lower)])
        # Names are ASCII, so that what is found at a place here is at the same place there.
        self._lower = self._text.lower()

    def search(self, query: str, limit: int) -> Found:
        """See `Explorer.search`. Several words must all be in the name; upper and lower case are the same."""
        words = query.lower().split()
        if not words:
            return Found((), more=False)
        found: dict[StorePath, None] = {}
        for store_path in self._matches(words):
            found[store_path] = None
            if len(found) > limit:
                break
        return Found(tuple(found)[:limit], more=len(found) > limit)

    def _matches(self, words: list[str]) -> Iterator[StorePath]:
        """The best first, some of them several times."""
        others = words[1:]
        if not others:
            for start, end in self._lines(f"\t{words[0]}"):
                yield self._path(start, end)
        for needle in (f"\n{words[0]}", max(words, key=len)):
            for start, end in self._lines(needle):
                name = self._lower[start : end - HASH_PART_LENGTH - 1]
                if all(word in name for word in words):
                    yield self._path(start, end)

    def _lines(self, needle: str) -> Iterator[tuple[int, int]]:
        """Where the lines begin and end that have `needle` in them, a tab or the line feed before them included."""
        position = self._lower.find(needle)
        while position >= 0:
            start = self._lower.rfind("\n", 0, position + 1) + 1
            end = self._lower.find("\n", start)
            yield start, end
            position = self._lower.find(needle, end)

    def _path(self, start: int, end: int) -> StorePath:
        name, _, hash_part = self._text[start:end].partition("\t")
        return StorePath(f"{hash_part}-{name}")
