"""An open file that threads may still be reading when its owner lets go of it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harmonia_py.errors import StorageError


class Descriptor:
    """Owns a file descriptor. A reader borrows a duplicate, which stays open until the reader has finished.

    Without the duplicate, a thread whose transfer is cancelled while it is inside the kernel could go on with a number
    that means another file by then, and send that file's bytes.

    Attributes:
        fd: the descriptor itself, for a caller that knows that the owner has not closed it.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._open = True
        self._lock = threading.Lock()

    @contextmanager
    def borrowed(self) -> Iterator[int]:
        """A descriptor for as long as the block runs.

        Raises:
            StorageError: the owner has closed it before.
        """
        with self._lock:
            if not self._open:
                raise StorageError("a blob was read after it had been released")
            fd = os.dup(self.fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the file; call it once. It takes milliseconds if this is the last descriptor of a deleted file."""
        with self._lock:
            self._open = False
            os.close(self.fd)
