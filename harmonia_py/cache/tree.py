"""The ports `Files` and `DebugFiles`, of files inside store paths, and their values.

Names are bytes, as on the disk. `None` means that there is nothing to show; a port that cannot tell raises.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol, Self

from msgspec import Struct

from harmonia_py.cache.source import Download
from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart, StorePath

# A SHA-1, which is what linkers make; Nix's index of debug information knows no other.
_BUILD_ID: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)


class Kind(StrEnum):
    """The kind of an entry of a directory, in the words of a NAR's listing."""

    REGULAR = "regular"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


class Entry(Struct, frozen=True):
    """One entry of a directory.

    Attributes:
        name: as on the disk.
        kind: of the entry itself; a symbolic link is not followed.
        size: of a regular file, in bytes.
        executable: whether a regular file is, for its owner.
        target: of a symbolic link.
    """

    name: bytes
    kind: Kind
    size: int = 0
    executable: bool = False
    target: bytes = b""


class File(Struct, frozen=True):
    """A regular file.

    Attributes:
        store_path: whose hash part was asked for.
        download: its bytes. The caller releases it.
    """

    store_path: StorePath
    download: Download


class Directory(Struct, frozen=True):
    """A directory.

    Attributes:
        store_path: whose hash part was asked for.
        entries: sorted by name, the first ones of very many.
        total: how many there are.
    """

    store_path: StorePath
    entries: tuple[Entry, ...]
    total: int


class BuildId(str):
    """The name that a linker gave to an executable and its debug information: 40 hexadecimal digits."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a build id.

        Raises:
            FormatError: not 40 lower-case hexadecimal digits.
        """
        if _BUILD_ID.fullmatch(text) is None:
            raise FormatError("not a build id")
        return cls(text)

    @property
    def member(self) -> str:
        """The path of this build's debug information inside a store path."""
        return f"lib/debug/.build-id/{self[:2]}/{self[2:]}.debug"


class DebugFile(Struct, frozen=True):
    """The store path that has the debug information of a build, the hash of its NAR, and how that can be had."""

    store_path: StorePath
    nar_hash: Hash
    compression: str


class Files(Protocol):
    """Files and directories inside store paths."""

    async def find(self, hash_part: HashPart, components: Sequence[bytes]) -> File | Directory | None:
        """The file or directory to which the components lead, from the valid path with this hash part.

        Symbolic links are followed inside the store path and into valid store paths, and nowhere else.
        """


class DebugFiles(Protocol):
    """Debug information inside store paths."""

    async def find(self, build_id: BuildId) -> DebugFile | None:
        """The place of this build's debug information; None when it is not here."""


class DebugFilesInOrder:
    """`DebugFiles` of several places, asked in order."""

    def __init__(self, *places: DebugFiles) -> None:
        self._places = places

    async def find(self, build_id: BuildId) -> DebugFile | None:
        """As in `DebugFiles`."""
        for place in self._places:
            found = await place.find(build_id)
            if found is not None:
                return found
        return None
