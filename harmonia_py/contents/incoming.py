"""The port `Incoming`: a file that comes in, with its producer and its check.

A NAR of the local store, a file of an upstream and a kept file that gets another compression come in this way. What
clients push does not: `push/receiving` takes it in.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Protocol

from msgspec import Struct

from harmonia_py.contents.file_check import FileCheck
from harmonia_py.errors import FormatError, HarmoniaError
from harmonia_py.runtime.threads import Threads
from harmonia_py.runtime.turns import Turns

Take = Callable[[bytes | memoryview], None]
"""Takes bytes, in memory that is used again when it returns."""


class Producer(Protocol):
    """The bytes of a file that comes in, from its first to its last.

    Attributes:
        size: how many, when that is known.
    """

    @property
    def size(self) -> int | None: ...  # noqa: D102  # see the class

    async def read(self) -> bytes:
        """The next bytes; none at the end."""

    async def pour(self, take: Take, threads: Executor) -> bool:
        """Have a thread hand some of the next bytes to `take`; False when there are no more."""

    def close(self) -> None:
        """Called once, when no thread is inside."""


class Lane(Struct, frozen=True):
    """Threads that compute, and the turns of the files that want them.

    Attributes:
        threads: decompress, hash, compress and write.
        turns: of files.
        gives_up: whether work without clients is given up also while nothing else waits for its turn.
        first: threads for the first bytes, which pass by those that compute; None: `threads`.
    """

    threads: Threads
    turns: Turns
    gives_up: bool
    first: Threads | None = None


class Incoming(Protocol):
    """A file that is to come in: a NAR of the local store, a file of an upstream, or a kept one to be recoded."""

    @property
    def lane(self) -> Lane:
        """The lane in which it waits for its turn and is computed."""

    @property
    def room(self) -> int:
        """About how many bytes it takes at most when it is kept."""

    @property
    def size(self) -> int | None:
        """The number of bytes of the file that is offered, when that is known; asked for again when it is open."""

    async def open(self) -> Producer | None:
        """Its bytes; None when there is no such file after all."""

    def check(self) -> FileCheck:
        """The check that verifies and re-codes it; asked for when it is open."""

    def fault(self, error: FormatError) -> HarmoniaError:
        """The error that a failed check means."""

    async def failed(self, error: HarmoniaError) -> None:
        """Note that the opened file is wrong, or cannot be read to its end, or not be kept; then readers learn it."""

    async def kept(self) -> None:
        """Note that the file is kept."""


Want = Callable[[], Awaitable[Incoming | None]]
"""Finds the file that has to come in, when it has to; None when there is no such file."""
