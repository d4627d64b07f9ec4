"""The port `FileCheck`: the check of a file from an upstream or a client while it comes in."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

from harmonia_py.contents.memory import MemoryFull

Sink = Callable[[bytes | memoryview], None]
"""Takes the next bytes of the file that is offered, and keeps none that are not its own."""


def _discard(_: bytes | memoryview) -> None:
    return


class FileCheck(ABC):
    """Holds a file against its claims as it comes, and gives the file that is offered here, which is often the same.

    No byte escapes the check: bytes are verified before `feed` returns, and when `portions` are not drawn to their end,
    the next call fails.
    """

    def __init__(self) -> None:
        self._in_order = True

    def feed(self, data: bytes | memoryview, sink: Sink = _discard) -> None:
        """Take the next bytes of the file, hand the sink the next ones of the offered file, a little at a time.

        Raises:
            FormatError: it is not the right file. The bytes that were given before are worthless.
            MemoryFull: there is no room to go on. The bytes are taken: feed none when there is.
        """
        for portion in self._begin(data):
            if portion:
                sink(portion)

    def steps(self, data: bytes | memoryview, sink: Sink) -> Iterator[None]:
        """Take the next bytes, as `feed` does, in steps of milliseconds. The caller draws all of it."""
        return _given(self._begin(data), sink)

    def portions(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes, as `feed` does, and give the next of the offered file. The caller draws all of it."""
        return (bytes(portion) for portion in self._begin(data) if portion)

    def finish(self) -> bytes:
        """Say that this was all, and take the last bytes.

        Raises:
            FormatError: it is not the right file.
        """
        self._assert_order()
        return self._last()

    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """The metadata to keep with the offered file, once it has proved right."""

    @abstractmethod
    def _portions(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """See `portions`; an empty portion stands for a step that gives no bytes."""

    @abstractmethod
    def _last(self) -> bytes:
        """See `finish`."""

    def _begin(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        # No generator: nothing may depend on whether a caller draws it.
        self._assert_order()
        self._in_order = False
        return self._drawn(data)

    def _drawn(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        try:
            yield from self._portions(data)
        except MemoryFull:
            self._in_order = True
            raise
        self._in_order = True

    def _assert_order(self) -> None:
        if not self._in_order:
            raise RuntimeError("the portions before were not drawn to their end, or proved to be wrong")


def _given(portions: Iterator[bytes | memoryview], sink: Sink) -> Iterator[None]:
    for portion in portions:
        if portion:
            sink(portion)
        yield
