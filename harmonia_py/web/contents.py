"""What is in a store path, for a page: the tree of its listing with the size of every directory, cut to a bound."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import msgspec

# A page of more rows is read by nobody, and its entries would keep the browser busy.
MAX_ROWS: Final = 400
# Of one directory, so that a large one leaves room for the others.
MAX_ENTRIES: Final = 100


@dataclass(slots=True)
class Node:
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
    """The tree in `listing`, which is one of ours; near the root it is complete sooner than deep down."""
    root = msgspec.json.decode(listing)["root"]
    sizes: dict[int, tuple[int, int]] = {}
    _measure(root, sizes)
    top = _node("", root, sizes, "")
    waiting = deque([(top, root)])
    rows = 0
    while waiting:
        node, value = waiting.popleft()
        entries = value.get("entries", {})
        shown = min(len(entries), max_entries, max_rows - rows)
        for name in list(entries)[:shown]:
            child = _node(name, entries[name], sizes, node.href)
            node.children.append(child)
            waiting.append((child, entries[name]))
        node.hidden = len(entries) - shown
        rows += shown
    return top


def _measure(value: dict[str, Any], sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Bytes and files of `value` and of everything in it. The format bounds the depth of a tree."""
    size, files = value.get("size", 0), int(value["type"] == "regular")
    for entry in value.get("entries", {}).values():
        more_size, more_files = _measure(entry, sizes)
        size, files = size + more_size, files + more_files
    sizes[id(value)] = size, files
    return size, files


def _node(name: str, value: dict[str, Any], sizes: dict[int, tuple[int, int]], parent: str | None) -> Node:
    size, files = sizes[id(value)]
    kind = value["type"]
    href = None
    # A listing is text: where a name has a backslash, it may stand for a byte that is none.
    if parent is not None and "\\" not in name:
        href = parent + quote(name, safe="") + ("/" if kind == "directory" and name else "")
    return Node(
        name=name,
        kind=kind,
        size=size,
        files=files,
        executable=value.get("executable", False),
        target=value.get("target"),
        href=href,
    )
