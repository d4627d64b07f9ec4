"""One transfer over a plain socket, as the threads see it: pieces in, system calls out, until the socket is full."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from harmonia_py.cache.source import FileSlice, Pause, Piece
from harmonia_py.errors import StorageError, StorePathChanged, describe_os_error

# A thread gives way to the next transfer after this much, so that a few threads serve many fast clients evenly. Where
# bytes are coded that compress well, few leave for many that are read, so a turn has a time as well.
TURN_BYTES: Final = 32 * 1024 * 1024
TURN_SECONDS: Final = 0.02

# The errors of sendfile when it is the file and not the socket that fails.
_FILE_ERRORS: Final = frozenset({errno.EIO, errno.EINVAL, errno.EBADF, errno.EOVERFLOW, errno.ENOMEM, errno.ESTALE})


class ClientGone(ConnectionError):
    """The client closed the connection, or took nothing for too long."""


class Full(Struct, frozen=True):
    """The socket takes no more for now."""


class Turn(Struct, frozen=True):
    """Enough for one turn; there is more."""


Outcome = Full | Turn | Pause | None


class Pump:
    """One transfer over a plain socket. One thread at a time calls `run`."""

    def __init__(self, sock: socket.socket, pieces: Iterator[Piece], *, chunked: bool) -> None:
        self.sent = 0
        self.first_byte: float | None = None
        self._socket = sock
        self._pieces = pieces
        self._chunked = chunked
        # The bytes, and then the slice, that are to be sent before the generator is resumed.
        self._bytes = memoryview(b"")
        self._slice: FileSlice | None = None
        self._trailer = b""

    def run(self) -> Outcome:
        """Send until there is nothing left (None), the socket is full, the turn is over, or there is a pause."""
        stop, deadline = self.sent + TURN_BYTES, time.perf_counter() + TURN_SECONDS
        while self.sent < stop and time.perf_counter() < deadline:
            try:
                busy = self._send()
            except BlockingIOError:
                return Full()
            except OSError as error:
                raise ClientGone from error
            if not busy:
                piece = next(self._pieces, None)
                if piece is None or isinstance(piece, Pause):
                    return piece
                if self.first_byte is None:
                    self.first_byte = time.perf_counter()
                self._take(piece)
        return Turn()

    def _send(self) -> bool:
        """Hand the kernel as much as it takes of the bytes and the slice; False when there are none."""
        if self._bytes:
            count = self._socket.send(self._bytes)
            self._bytes = self._bytes[count:]
            self.sent += count
        elif self._slice is not None:
            try:
                count = os.sendfile(self._socket.fileno(), self._slice.fd, self._slice.offset, self._slice.size)
            except OSError as error:
                if error.errno in _FILE_ERRORS:
                    raise StorageError(
                        f"a file cannot be read while it is being sent: {describe_os_error(error)}"
                    ) from error
                raise
            if count == 0:
                raise StorePathChanged("a file became shorter while it was being sent")
            self.sent += count
            left = self._slice.size - count
            self._slice = FileSlice(self._slice.fd, self._slice.offset + count, left) if left else None
        elif self._trailer:
            self._bytes, self._trailer = memoryview(self._trailer), b""
        else:
            return False
        return True

    def _take(self, piece: bytes | FileSlice) -> None:
        size = piece.size if isinstance(piece, FileSlice) else len(piece)
        if size == 0:
            return
        head = b"%x\r\n" % size if self._chunked else b""
        self._trailer = b"\r\n" if self._chunked else b""
        if isinstance(piece, FileSlice):
            self._bytes, self._slice = memoryview(head), piece
        else:
            self._bytes = memoryview(head + piece if head else piece)
