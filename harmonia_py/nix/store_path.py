"""Store paths, their hash parts, and the directory they live in.

Source: `src/libstore/path.cc` of Nix; "Store Path" in the Nix manual.
"""

import re
from typing import Final, Self

from harmonia_py.errors import FormatError

HASH_PART_LENGTH: Final = 32
MAX_NAME_LENGTH: Final = 211

HASH_PART: Final = re.compile(r"[0-9abcdfghijklmnpqrsvwxyz]{32}", re.ASCII)
# Nix refuses the names `.` and `..`, alone or followed by a dash: they would be special as a path component.
_NAME: Final = re.compile(r"(?!\.\.?(?:-|\Z))[0-9A-Za-z+\-._?=]{1,211}", re.ASCII)
_STORE_PATH: Final = re.compile(rf"{HASH_PART.pattern}-{_NAME.pattern}", re.ASCII)
# A line feed would end a narinfo's line; what is not UTF-8 (a lone surrogate, to Python) has no place in a narinfo.
_STORE_DIR: Final = re.compile(r"(?:/(?!\.\.?(?:/|\Z))[^/\x00-\x1f\x7f\ud800-\udfff]+)+")


class HashPart(str):
    """The 32 base-32 characters a store path begins with: its identity in a binary cache."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a hash part.

        Raises:
            FormatError: not 32 characters of Nix's base-32.
        """
        if HASH_PART.fullmatch(text) is None:
            raise FormatError("not the hash part of a store path")
        return cls(text)


def parse_name(text: str) -> str:
    """Read a name as it stands after the dash; outputs of derivations have the same rules.

    Raises:
        FormatError: empty, over 211 characters, with other characters than Nix allows, or special to a file system.
    """
    if _NAME.fullmatch(text) is None:
        raise FormatError("not a name that a store path can have")
    return text


class StorePath(str):
    """The base name of a store path, `<hash part>-<name>`, without the store directory."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a base name.

        Raises:
            FormatError: not `<hash part>-<name>`, or a name that Nix refuses.
        """
        if _STORE_PATH.fullmatch(text) is None:
            raise FormatError("not a store path")
        return cls(text)

    @property
    def hash_part(self) -> HashPart:
        """The first 32 characters."""
        return HashPart(self[:HASH_PART_LENGTH])

    @property
    def name(self) -> str:
        """The text after the dash."""
        return self[HASH_PART_LENGTH + 1 :]

    @property
    def is_derivation(self) -> bool:
        """Whether the name says this is a `.drv`."""
        return self.endswith(".drv")


class StoreDir(str):
    """The logical directory of store paths, `/nix/store`: what narinfos and signatures say, wherever the files are."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an absolute directory without `.`, `..`, empty components or a trailing slash.

        Raises:
            FormatError: anything else.
        """
        if _STORE_DIR.fullmatch(text) is None:
            raise FormatError("not an absolute, normalised directory")
        return cls(text)

    def join(self, store_path: StorePath) -> str:  # type: ignore[override]  # str.join has no meaning for a directory
        """The full path of `store_path`, as the daemon and fingerprints have it."""
        return f"{self}/{store_path}"

    def parse_path(self, text: str) -> StorePath:
        """Read a full path directly under this directory.

        Raises:
            FormatError: a path elsewhere, deeper, or with a malformed base name.
        """
        if not text.startswith(self + "/"):
            raise FormatError("not in the store directory")
        return StorePath.parse(text[len(self) + 1 :])
