"""The writing of a file that comes in: each portion checked, re-coded and handed to the spool, by its lane's threads.

The last byte of a file whose length clients were told is written when all of it has proved right.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from msgspec import Struct

from harmonia_py.contents.blobs import SpooledFile
from harmonia_py.contents.incoming import Incoming, Producer
from harmonia_py.contents.memory import MemoryFull
from harmonia_py.contents.spool import SpoolWriter
from harmonia_py.errors import FormatError

# What is no larger and comes at once is verified before its first byte is sent, and goes to clients out of memory: most
# of what a small file costs is waiting for threads, and for a look at the growing file.
SMALL_BYTES: Final = 256 * 1024
# The rest is less work than beginning anew.
_NEARLY_DONE: Final = 0.75


class Begun(Struct, frozen=True):
    """The facts of a file when its first bytes are there.

    Attributes:
        size: of the offered file, when it is known.
        whole: all of it, verified, when it is small and came at once.
        file_hash: of `whole`, in base-32.
    """

    size: int | None
    whole: bytes | None = None
    file_hash: str = ""


class Writing:
    """Takes bytes from a producer, in threads, and writes the offered file.

    Args:
        incoming: is open.
        source: its bytes.
        writer: used by nothing else.
        begin: called in the event loop when the first bytes are there.

    Attributes:
        file: the result of `finish`, if that is known already.
    """

    def __init__(
        self, incoming: Incoming, source: Producer, writer: SpoolWriter, begin: Callable[[Begun | None], None]
    ) -> None:
        self.check = incoming.check()
        self.writer = writer
        self._incoming = incoming
        self._size = incoming.size
        self._source_size = source.size
        self._loop = asyncio.get_running_loop()
        self._begin = begin
        self._has_begun = False
        self._taken = 0
        self._written = 0
        self._held = b""
        self._whole = b""
        self.file: SpooledFile | None = None

    def is_worth_giving_up(self) -> bool:
        """Whether nothing but clients' wishes speaks for going on."""
        if self.file is not None or (self._source_size and self._taken > _NEARLY_DONE * self._source_size):
            return False
        lane = self._incoming.lane
        return lane.gives_up or lane.turns.is_wanted

    def take(self, data: bytes | memoryview) -> None:
        """Take the next bytes that came; a thread calls it."""
        first, self._taken = not self._taken, self._taken + len(data)
        try:
            if first and len(data) == self._source_size and self._is_small(len(data)):
                self._take_whole(data)
            else:
                self.check.feed(data, self._write)
        except FormatError as error:
            raise self._incoming.fault(error) from None

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are here, and proved to be right: from the moment on that a client can have the last."""
        return bool(self._whole) or self.file is not None

    def finish(self) -> SpooledFile:
        """Write the last bytes, if everything was right; a thread calls it."""
        try:
            last = self._whole or self._held + self.check.finish()
        except FormatError as error:
            raise self._incoming.fault(error) from None
        self.writer.write(last)
        file = self.file = self.writer.finish()
        self._announce(Begun(file.size if self._size is None else self._size))
        return file

    def _is_small(self, size: int) -> bool:
        return size <= SMALL_BYTES and (self._size == size or self._incoming.room <= SMALL_BYTES)

    def _take_whole(self, data: bytes | memoryview) -> None:
        parts: list[bytes] = []
        try:
            self.check.feed(data, lambda portion: parts.append(bytes(portion)))
        except MemoryFull:
            self._write(b"".join(parts))
            raise
        self._whole = b"".join((*parts, self.check.finish()))
        file_hash = self.check.metadata()["file_hash"].removeprefix("sha256:")
        self._announce(Begun(len(self._whole), self._whole, file_hash))
        # By this thread: to hand over takes longer than to write so little, and the client has its answer.
        self.finish()

    def _write(self, portion: bytes | memoryview) -> None:
        if not portion:
            return
        self._written += len(portion)
        if self._whole:
            raise FormatError("it is longer than was said")
        if self._size is not None and self._written >= self._size:
            if self._written > self._size:
                raise FormatError("it is longer than was said")
            portion, self._held = portion[:-1], bytes(portion[-1:])
        self.writer.write(portion)
        if self._written:
            # At once, before anything else: the first client waits for this.
            self._announce(Begun(self._size))

    def _announce(self, begun: Begun) -> None:
        if not self._has_begun:
            self._has_begun = True
            with suppress(RuntimeError):  # the loop has ended, and every caller with it
                self._loop.call_soon_threadsafe(self._begin, begun)
