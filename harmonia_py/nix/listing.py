"""The listing of a NAR, `<hash part>.ls`: its tree as JSON, with the offset of every file's contents.

Source: `src/libfetchers/nar-accessor.cc` (`listNar`) and `src/libstore/binary-cache-store.cc` of Nix.
"""

from collections.abc import Iterable
from json import JSONEncoder
from typing import Final

from harmonia_py.nix.nar import Contents, Directory, DirectoryEnd, Event, Regular, encode

# For a string it goes straight to the escaping in C.
_quote: Final = JSONEncoder(ensure_ascii=False).encode


class ListingWriter:
    r"""Writes `{"version":1,"root":…}` while the tree is found, compact, in Nix's order of keys.

    JSON is Unicode, names are bytes. Where a name or target is not UTF-8, older Nix writes bytes that no JSON parser
    accepts, and newer Nix writes no listing at all. Here each such byte becomes its escape, `\xe9` in four characters:
    every parser reads the listing, names that differ stay different (but for a sibling that has the escape literally),
    and a reader that needs the bytes finds them again. U+FFFD would make one of many names; lone surrogates are refused
    by strict parsers.
    """

    __slots__ = ("_comma", "_parts", "size")

    def __init__(self) -> None:
        self._parts = ['{"version":1,"root":']
        self._comma = ""  # before the next entry
        self.size = 0
        """About how many characters are held until the next `take`."""

    def add(self, event: Event, offset: int) -> None:
        """Write the next event of a tree; `executable` appears only when it is true.

        Args:
            event: in the order of an archive. The root is the one without a name.
            offset: of a file's contents in the archive; it means nothing for other events.
        """
        if isinstance(event, DirectoryEnd):
            self._parts.append("}}")
            self._comma = ","
            return
        if event.name:
            self._parts.append(f"{self._comma}{_text(event.name)}:")
        self._comma = ","
        if isinstance(event, Regular):
            executable = ',"executable":true' if event.executable else ""
            text = f'{{"type":"regular","size":{event.size}{executable},"narOffset":{offset}}}'
        elif isinstance(event, Directory):
            text = '{"type":"directory","entries":{'
            self._comma = ""
        else:
            text = f'{{"type":"symlink","target":{_text(event.target)}}}'
        self._parts.append(text)
        self.size += len(event.name) + len(text)

    def take(self) -> bytes:
        """The text that was written since the last call."""
        text = "".join(self._parts)
        self._parts.clear()
        self.size = 0
        return text.encode()

    def end(self) -> None:
        """Say that the tree is complete."""
        self._parts.append("}")


def format_listing(events: Iterable[Event | Contents]) -> bytes:
    """The listing of a tree, as `ListingWriter` has it.

    Raises:
        FormatError: the events are no tree, or one that exceeds the limits of an archive.
    """
    writer = ListingWriter()
    for event, _, offset in encode(events):
        if event is not None:
            writer.add(event, offset)
    writer.end()
    return writer.take()


def _text(data: bytes) -> str:
    return _quote(data.decode(errors="backslashreplace"))
