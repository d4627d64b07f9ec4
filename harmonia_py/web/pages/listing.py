"""A listing as an upstream sends it, parsed into a tree: nothing vouches for it, so everything in it is looked at."""

from typing import Annotated, Final, Literal

import msgspec

from harmonia_py import json_text
from harmonia_py.errors import FormatError, naming
from harmonia_py.nix.nar import MAX_DEPTH
from harmonia_py.nix.path_info import MAX_NAR_SIZE


class ListedFile(msgspec.Struct, frozen=True, tag_field="type", tag="regular"):
    """A regular file: its size in bytes, and whether it may be executed."""

    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_NAR_SIZE)]
    executable: bool = False


class ListedLink(msgspec.Struct, frozen=True, tag_field="type", tag="symlink"):
    """A symbolic link, and where it leads."""

    target: str


class ListedDirectory(msgspec.Struct, frozen=True, tag_field="type", tag="directory"):
    """A directory: its entries by their names, in the order of the text."""

    entries: "dict[str, ListedFile | ListedLink | ListedDirectory]"


Listed = ListedFile | ListedLink | ListedDirectory


class _Listing(msgspec.Struct, frozen=True):
    version: Literal[1]
    root: ListedFile | ListedLink | ListedDirectory


# Each directory is an object with an object of its entries, and the tree is in one more.
_MOST_IN_ONE_ANOTHER: Final = 2 * MAX_DEPTH + 2
_NO_NAMES: Final = frozenset({"", ".", ".."})


def parse_listing(data: bytes) -> Listed:
    """The tree in a listing, at most as deep as an archive; unknown keys are ignored, as Nix does.

    Raises:
        FormatError: it is no listing, or names something that no directory can have.
    """
    with naming("not a listing", FormatError):
        root = json_text.decode(data, _Listing, most=_MOST_IN_ONE_ANOTHER)
    level: list[Listed] = [root.root]
    for _ in range(MAX_DEPTH):
        directories = [entry for entry in level if isinstance(entry, ListedDirectory)]
        if not directories:
            return root.root
        if any(name in _NO_NAMES or "/" in name or "\0" in name for one in directories for name in one.entries):
            raise FormatError("a listing names something that no directory can have")
        level = [entry for one in directories for entry in one.entries.values()]
    raise FormatError("a listing is deeper than any archive")
