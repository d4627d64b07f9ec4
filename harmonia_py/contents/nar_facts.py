"""The facts of a NAR, learnt while its bytes pass: its listing, its debug files, its possible references.

Everything here computes, so a thread calls it. Memory is bounded, whatever comes: a listing is compressed while it
grows, and an archive with more entries than any honest one has is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

from harmonia_py.cache.tree import BuildId
from harmonia_py.contents.codecs import Unpacker
from harmonia_py.contents.encoders import Encoder, encoder
from harmonia_py.errors import FormatError
from harmonia_py.nix.listing import ListingWriter
from harmonia_py.nix.nar import Contents, Directory, DirectoryEnd, Event, Regular
from harmonia_py.nix.nar_parser import Parser
from harmonia_py.nix.reference_scan import ReferenceScan
from harmonia_py.nix.store_path import HashPart

# nixpkgs has sixty thousand files, the largest sources and TeX distributions some four hundred thousand.
MAX_ENTRIES: Final = 1_000_000
# Those entries, with names of a usual length.
MAX_LISTING_SIZE: Final = 256 * 1024 * 1024
# Sixty bytes of memory each. Qt and LibreOffice have some hundred.
MAX_DEBUG_FILES: Final = 2**16

# A listing up to this long stays as it is: a compressor takes more memory.
_PLAIN_BYTES: Final = 256 * 1024
# Nix on macOS writes such a name for one that differs from another in its case alone, and leaves it out when it reads.
_CASE_HACK: Final = b"~nix~case~hack~"
_DEBUG_FOLDER: Final = (b"", b"lib", b"debug", b".build-id")
_DEBUG_DEPTH: Final = len(_DEBUG_FOLDER) + 1
_FIRST_DIGITS: Final = re.compile(rb"[0-9a-f]{2}")
_DEBUG_FILE: Final = re.compile(rb"([0-9a-f]{38})\.debug")


@dataclass(frozen=True, slots=True)
class Listing:
    """The JSON of a NAR's tree, as `<hash part>.ls` has it, held compressed when it is long.

    Attributes:
        size: in bytes, of the JSON.
    """

    size: int
    _parts: tuple[bytes, ...] = field(repr=False)
    _compression: str = "none"

    def portions(self) -> Iterator[bytes]:
        """The JSON, a little at a time."""
        unpacker = Unpacker(self._compression)
        for part in self._parts:
            yield from map(bytes, unpacker.feed(part))


class NarFacts(Struct, frozen=True, kw_only=True):
    """The facts of a NAR whose every byte has passed.

    Attributes:
        listing: of its tree.
        candidates: the hash parts that stand in it: its references are among them.
        has_all_candidates: False when there were too many of them to remember.
        debug_files: the builds whose debug information it has, as `index-debug-info` of Nix finds them.
    """

    listing: Listing
    candidates: frozenset[HashPart]
    has_all_candidates: bool
    debug_files: tuple[BuildId, ...]


class NarReader:
    """Takes a NAR in chunks of any size, and knows the facts when it has ended. An error is the end as well."""

    def __init__(self) -> None:
        self._parser = Parser()
        self._scan = ReferenceScan()
        self._listing = _GrowingListing()
        self._folders: list[bytes] = []  # the names of the open directories; the root is the first
        self._debug_files: list[BuildId] = []
        self._entries = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            FormatError: they are no NAR, or one that exceeds the limits of the format or of what is kept here.
        """
        self._scan.update(data)
        events = self._parser.feed(data)
        offsets = iter(self._parser.offsets)
        for event in events:
            if not isinstance(event, Contents):
                self._listing.writer.add(event, next(offsets) if isinstance(event, Regular) else 0)
                self._enter(event)
        self._listing.settle()

    def finish(self) -> NarFacts:
        """Say that this was all.

        Raises:
            FormatError: the archive is not complete.
        """
        self._parser.close()
        return NarFacts(
            listing=self._listing.finish(),
            candidates=frozenset(self._scan.found),
            has_all_candidates=self._scan.is_complete,
            debug_files=tuple(self._debug_files),
        )

    def _enter(self, event: Event) -> None:
        if isinstance(event, DirectoryEnd):
            self._folders.pop()
            return
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise FormatError(f"an archive of more than {MAX_ENTRIES} files is not taken")
        if _CASE_HACK in event.name:
            raise FormatError("a name in the archive is one that Nix gives to others on macOS")
        if isinstance(event, Directory):
            self._folders.append(event.name)
        elif isinstance(event, Regular) and len(self._folders) == _DEBUG_DEPTH:
            self._look_at_debug_file(event.name)

    def _look_at_debug_file(self, name: bytes) -> None:
        *above, first = self._folders
        rest = _DEBUG_FILE.fullmatch(name)
        if rest is None or tuple(above) != _DEBUG_FOLDER or _FIRST_DIGITS.fullmatch(first) is None:
            return
        if len(self._debug_files) >= MAX_DEBUG_FILES:
            raise FormatError(f"an archive with debug information of more than {MAX_DEBUG_FILES} builds is not taken")
        self._debug_files.append(BuildId.parse((first + rest[1]).decode()))


class _GrowingListing:
    """Moves what the writer has written into a compressor, once that pays."""

    def __init__(self) -> None:
        self.writer = ListingWriter()
        self._parts: list[bytes] = []
        self._compressor: Encoder | None = None
        self._size = 0

    def settle(self) -> None:
        """Take no more memory than needed."""
        if self.writer.size < _PLAIN_BYTES:
            return
        if self._compressor is None:
            self._compressor = encoder("zstd")
        text = self.writer.take()
        self._size += len(text)
        if self._size > MAX_LISTING_SIZE:
            raise FormatError("the listing of the archive would be too long")
        self._keep(self._compressor.compress(text))

    def finish(self) -> Listing:
        self.writer.end()
        text = self.writer.take()
        self._size += len(text)
        if self._compressor is None:
            return Listing(self._size, (text,))
        self._keep(self._compressor.compress(text))
        self._keep(self._compressor.flush())
        return Listing(self._size, tuple(self._parts), "zstd")

    def _keep(self, data: bytes | memoryview) -> None:
        if data:
            self._parts.append(bytes(data))
