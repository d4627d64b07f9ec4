"""The listing of a NAR, `<hash part>.ls`: its tree as JSON, with the offset of every file's contents.

Source: `src/libfetchers/nar-accessor.cc` (`listNar`) and `src/libstore/binary-cache-store.cc` of Nix.
"""

from collections.abc import Iterable
from json import JSONEncoder
from typing import Final

from harmonia_py.nix.nar import Contents, Directory, DirectoryEnd, Event, Regular, encode

# For a string it goes straight to the escaping in C.
_quote: Final = JSONEncoder(ensure_ascii=False).encode


def format_listing(events: Iterable[Event | Contents]) -> bytes:
    r"""`{"version":1,"root":…}`, compact, in Nix's order of keys; `executable` appears only when it is true.

    JSON is Unicode, names are bytes. Where a name or target is not UTF-8, older Nix writes bytes that no JSON parser
    accepts, and newer Nix writes no listing at all. Here each such byte becomes its escape, `\xe9` in four characters:
    every parser reads the listing, names that differ stay different (but for a sibling that has the escape literally),
    and whoever needs the bytes finds them again. U+FFFD would make one of many names; lone surrogates are refused by
    strict parsers.

    Raises:
        FormatError: the events are no tree, or one that exceeds the limits of an archive.
    """
    parts = ['{"version":1,"root":']
    comma = ""  # before the next entry
    for event, _, offset in encode(events):
        if event is None:
            break
        if isinstance(event, DirectoryEnd):
            parts.append("}}")
            comma = ","
            continue
        if len(parts) > 1:
            parts.append(f"{comma}{_text(event.name)}:")
        comma = ","
        if isinstance(event, Regular):
            executable = ',"executable":true' if event.executable else ""
            parts.append(f'{{"type":"regular","size":{event.size}{executable},"narOffset":{offset}}}')
        elif isinstance(event, Directory):
            parts.append('{"type":"directory","entries":{')
            comma = ""
        else:
            parts.append(f'{{"type":"symlink","target":{_text(event.target)}}}')
    parts.append("}")
    return "".join(parts).encode()


def _text(data: bytes) -> str:
    return _quote(data.decode(errors="backslashreplace"))
