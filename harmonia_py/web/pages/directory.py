"""The tree of a store path for a page: its listing with the size of every directory, cut to a bound."""

from collections import deque
from typing import Annotated, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import Struct, field

from harmonia_py import json_text
from harmonia_py.errors import FormatError, naming
from harmonia_py.nix.nar import MAX_DEPTH
from harmonia_py.nix.path_info import MAX_NAR_SIZE

# A page of more rows is too long to read, and its entries would keep the browser busy.
MAX_ROWS: Final = 400
# Entries of one directory that are shown, so that a large directory leaves room for the others.
MAX_ENTRIES: Final = 100


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

_KINDS: Final[dict[type[Listed], str]] = {
    ListedDirectory: "directory",
    ListedFile: "regular",
    ListedLink: "symlink",
}


class _Listing(msgspec.Struct, frozen=True):
    version: Literal[1]
    root: ListedFile | ListedLink | ListedDirectory


# Each directory is an object with an object of its entries, and the tree is in one more.
_MOST_IN_ONE_ANOTHER: Final = 2 * MAX_DEPTH + 2
_NO_NAMES: Final = frozenset({"", ".", ".."})


def parse_listing(data: bytes) -> Listed:
    """The tree in a listing of an upstream, at most as deep as an archive; unknown keys are ignored, as Nix does.

    Nothing vouches for it, so everything in it is looked at.

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


class Node(Struct):
    """An entry of the tree.

    Attributes:
        name: as the listing has it; the root has none.
        kind: `directory`, `regular` or `symlink`.
        size: in bytes; of a directory, everything in it.
        files: how many regular files: 1 for a file itself.
        executable: whether a regular file is.
        target: of a symbolic link.
        href: the entry relative to the root, percent-encoded; None when its name is not one that can be asked for.
        children: the entries of a directory that are shown.
        hidden: how many entries of a directory are not.
    """

    name: str
    kind: str
    size: int = 0
    files: int = 0
    executable: bool = False
    target: str | None = None
    href: str | None = None
    children: list["Node"] = field(default_factory=list)
    hidden: int = 0


def read_contents(listing: bytes, max_rows: int = MAX_ROWS, max_entries: int = MAX_ENTRIES) -> Node:
    """The tree in `listing`; near the root it is complete sooner than deep down.

    Raises:
        FormatError: it is no listing: an upstream may send anything.
    """
    root = parse_listing(listing)
    sizes: dict[int, tuple[int, int]] = {}
    _measure(root, sizes)
    top = _node("", root, sizes, "")
    waiting = deque([(top, root)])
    rows = 0
    while waiting:
        node, value = waiting.popleft()
        entries = value.entries if isinstance(value, ListedDirectory) else {}
        shown = min(len(entries), max_entries, max_rows - rows)
        for name in list(entries)[:shown]:
            child = _node(name, entries[name], sizes, node.href)
            node.children.append(child)
            waiting.append((child, entries[name]))
        node.hidden = len(entries) - shown
        rows += shown
    return top


def _measure(value: Listed, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Bytes and files of `value` and of everything in it. The format bounds the depth of a tree."""
    size = files = 0
    if isinstance(value, ListedFile):
        size, files = value.size, 1
    elif isinstance(value, ListedDirectory):
        for entry in value.entries.values():
            more_size, more_files = _measure(entry, sizes)
            size, files = size + more_size, files + more_files
    sizes[id(value)] = size, files
    return size, files


def _node(name: str, value: Listed, sizes: dict[int, tuple[int, int]], parent: str | None) -> Node:
    size, files = sizes[id(value)]
    href = None
    # A listing is text: where a name has a backslash, it may stand for a byte that is none.
    if parent is not None and "\\" not in name:
        href = parent + quote(name, safe="") + ("/" if isinstance(value, ListedDirectory) and name else "")
    return Node(
        name=name,
        kind=_KINDS[type(value)],
        size=size,
        files=files,
        executable=isinstance(value, ListedFile) and value.executable,
        target=value.target if isinstance(value, ListedLink) else None,
        href=href,
    )
