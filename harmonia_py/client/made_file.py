"""The file of a NAR as a push makes it: part by part, or whole first, in a temporary file."""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from hashlib import sha256
from typing import Final, Self

from harmonia_py.client.bodies import FileBody
from harmonia_py.client.outcomes import Events
from harmonia_py.errors import reason_of
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import SUFFIXES
from harmonia_py.runtime.threads import in_thread

PART_BYTES: Final = 2 * 1024 * 1024
"""Two of them are in memory for each NAR that is being made: one on its way, one that grows."""
COMPRESSION: Final = "zstd"
# Bytes of a NAR after which a thread takes turns with those of other paths.
_TURN_BYTES: Final = 2 * 1024 * 1024


class NoPlace(Exception):
    """There is no room for a temporary file."""


class MadeFile:
    """The file of a NAR, as it is made.

    Args:
        pieces: the pieces of the file, each with the number of bytes of the NAR that were read for it.
        threads: read and compute.
        events: is told how far it is.

    Attributes:
        read: bytes of the NAR that were read.
        size: bytes of the file that were made.
        is_whole: whether those are all.
    """

    def __init__(self, pieces: Iterator[tuple[int, bytes]], threads: Executor, events: Events) -> None:
        self.read = 0
        self.size = 0
        self.is_whole = False
        self._pieces = pieces
        self._threads = threads
        self._events = events
        self._digest = sha256()

    @property
    def name(self) -> str:
        """The name of the file, once it is whole."""
        return f"{Hash('sha256', self._digest.digest()).nix32}.nar{SUFFIXES[COMPRESSION]}"

    async def part(self) -> bytearray:
        """The next part: `PART_BYTES` or a piece more, less at the end, nothing behind it."""
        made = bytearray()
        while not self.is_whole and len(made) < PART_BYTES:
            before = self.read
            try:
                await in_thread(self._threads, self._make, made)
            finally:  # a caller that gives the file up takes back what was read
                self._events.advanced(self.read - before)
        return made

    def _make(self, made: bytearray) -> None:
        end = self.read + _TURN_BYTES
        while self.read < end and len(made) < PART_BYTES:
            step = next(self._pieces, None)
            if step is None:
                self.is_whole = True
                return
            read, piece = step
            self.read += read
            self._digest.update(piece)
            self.size += len(piece)
            made += piece


class StoredFile:
    """The file of a NAR that is whole, in a temporary file that has no name. Leaving it ends that.

    Args:
        threads: read and write.

    Attributes:
        name: its name.
        size: its bytes.

    Raises:
        NoPlace: there is no place for temporary files.
    """

    def __init__(self, threads: Executor) -> None:
        self.name = ""
        self.size = 0
        self._threads = threads
        self._offset = 0
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # `__exit__` closes it
        except OSError as error:
            raise NoPlace(f"no temporary file can be made: {reason_of(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    async def fill(self, file: MadeFile, part: bytearray) -> None:
        """Make the rest of `file`, which comes after `part`.

        Raises:
            NoPlace: there is no room for temporary files.
        """
        while part:
            await in_thread(self._threads, _write, self._file.fileno(), part)
            part = await file.part()
        self.name, self.size = file.name, file.size

    @property
    def body(self) -> FileBody:
        """The body of a request with all of it."""
        return FileBody(self._file.fileno(), self.size)

    def slice(self, offset: int, size: int) -> FileBody:
        """The body of a request with so many bytes from `offset` on, or those that there are."""
        return FileBody(self._file.fileno(), min(size, self.size - offset), offset)

    async def part(self) -> bytearray:
        """The next part, as `MadeFile.part`."""
        part = bytearray(await in_thread(self._threads, os.pread, self._file.fileno(), PART_BYTES, self._offset))
        self._offset += len(part)
        return part


def _write(fd: int, data: bytearray) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise NoPlace(f"the temporary file cannot be written: {reason_of(error)}") from error
