"""Questions of people about a store, which no client asks: the port `Explorer`, and the index of searches.

Every answer is bounded: a search returns so many paths, a traversal visits so many, and both say when there are more.
"""

from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.nix.store_path import HASH_PART_LENGTH, StorePath

# One call that sorts a hundred thousand strings would stop every thread for its whole duration.
_SORTED_AT_ONCE: Final = 2000
# The bound of one search, in places of the words: a search of common words in a hundred thousand paths would
# otherwise take 400 ms.
_MAX_LINES: Final = 10_000
_MAX_WORDS: Final = 8
# To count how often a word occurs takes five milliseconds, and longer the shorter it is.
_COUNTED_LENGTH: Final = 3


class Matches(Struct, frozen=True):
    """Store paths that match, the best first; `more` when there are others."""

    paths: tuple[StorePath, ...]
    more: bool


class Closure(Struct, frozen=True):
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
    """Questions about valid store paths; raises a `HarmoniaError` when they cannot be answered."""

    async def count(self) -> int | None:
        """The number of valid paths; None when counting takes too long now."""

    async def search(self, query: str, limit: int) -> Matches:
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
        # Names are ASCII, so that a place in the lower-case text is the same place in the other.
        self._lower = self._text.lower()

    def search(self, query: str, limit: int) -> Matches:
        """As `Explorer.search`. Several words must all be in the name; upper and lower case are the same.

        It looks at a bounded number of paths, which takes some 20 ms; when that is not all, there may be others.
        """
        words = query.lower().split()[:_MAX_WORDS]
        found: dict[StorePath, None] = {}
        is_cut = False
        for needle in self._needles(words):
            for number, (start, end) in enumerate(self._lines(needle)):
                if number >= _MAX_LINES:
                    is_cut = True
                    break
                # The beginning of a hash, or a name with all words in it.
                name = self._lower[start : end - HASH_PART_LENGTH - 1]
                if needle.startswith("\t") or all(word in name for word in words):
                    found[self._path(start, end)] = None
                    if len(found) > limit:
                        return Matches(tuple(found)[:limit], more=True)
        return Matches(tuple(found), more=is_cut)

    def _needles(self, words: list[str]) -> Iterator[str]:
        """The lines of the paths that have all of `words`, the best first; none if one of them occurs nowhere."""
        if not words or any(self._lower.find(word) < 0 for word in words):
            return
        if len(words) == 1:
            yield f"\t{words[0]}"
        yield f"\n{words[0]}"
        yield self._rarest(words)

    def _rarest(self, words: list[str]) -> str:
        """The word that leads to the fewest lines; of words that are too short to be rare, the longest."""
        longest = max(words, key=len)
        if len(words) == 1 or len(longest) < _COUNTED_LENGTH:
            return longest
        return min((word for word in words if len(word) >= _COUNTED_LENGTH), key=self._lower.count)

    def _lines(self, needle: str) -> Iterator[tuple[int, int]]:
        """The bounds of the lines that have `needle` in them, with the tab or line feed before them."""
        position = self._lower.find(needle)
        while position >= 0:
            start = self._lower.rfind("\n", 0, position + 1) + 1
            end = self._lower.find("\n", start)
            yield start, end
            position = self._lower.find(needle, end)

    def _path(self, start: int, end: int) -> StorePath:
        name, _, hash_part = self._text[start:end].partition("\t")
        return StorePath(f"{hash_part}-{name}")
