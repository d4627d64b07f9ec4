"""The port `Bases`: paths of a cache that a path which is pushed is likely to share chunks with.

These are builds of the program: paths with the name of the pushed one, and those with the names next to it in their
order, which are other versions. A question about chunks is answered from the recipes of bases alone, which are paths of
the cache that is asked. So neither the answer nor its time depends on what other caches have.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.nix.store_path import HashPart

MAX_BASES: Final = 8
"""Of one path: each is a recipe that is read for every question about chunks."""

# As `builtins.parseDrvName`: a version begins behind the first dash that no letter follows.
_VERSION: Final = re.compile(r"(.+?)-([^A-Za-z].*)", re.ASCII)
_OUTPUT: Final = re.compile(r"-[a-z]+\Z", re.ASCII)


class Base(Struct, frozen=True):
    """A path that may share chunks.

    Attributes:
        hash_part: of the path.
        recipe: the key of its recipe.
    """

    hash_part: HashPart
    recipe: str


class Bases(Protocol):
    """Bases. Each method raises `StorageError` when the catalog cannot tell."""

    async def like(
        self, cache: CacheId, session: str, names: Collection[str], *, now: Timestamp
    ) -> Mapping[str, Sequence[Base]]:
        """The bases of paths by their names, up to `MAX_BASES` each; they stay as long as the session lives.

        That is no use of them, and condemned paths are none: a path does not stay because others like it are pushed.
        """

    async def find(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Sequence[Base]:
        """Those of these paths that readers of the cache see and whose NARs are in chunks."""


class OtherVersions(Struct, frozen=True):
    """The names that other versions of a program have, for the same output.

    Attributes:
        first: no such name is before this text.
        end: all such names are before this text.
        output: what such a name ends with; empty when it ends with a version.
    """

    first: str
    end: str
    output: str

    @classmethod
    def of(cls, name: str) -> "OtherVersions | None":
        """The names for the other versions of a path's program; None for a name without a version."""
        match = _VERSION.fullmatch(name)
        if match is None:
            return None
        # Versions begin with a digit; `:` is the character behind the last of them.
        return cls(f"{match[1]}-0", f"{match[1]}-:", _output(match[2]))

    def has(self, name: str) -> bool:
        """Whether this is such a name."""
        match = _VERSION.fullmatch(name)
        return match is not None and self.first <= name < self.end and _output(match[2]) == self.output


def _output(version: str) -> str:
    match = _OUTPUT.search(version)
    return "" if match is None else match[0]
