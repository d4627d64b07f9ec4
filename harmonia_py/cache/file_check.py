"""What every file of an upstream is held against while it comes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

Sink = Callable[[bytes | memoryview], None]
"""Takes the next bytes of the file that is offered, and keeps none that are not its own."""


def _discard(_: bytes | memoryview) -> None:
    return


class FileCheck(ABC):
    """Holds a file against what is known of it as it comes, and gives the file that is offered here: often the same.

    Nothing can be forgotten: what is fed is verified before `feed` returns, and whoever draws `portions` and stops
    before their end is told so by the next call.
    """

    def __init__(self) -> None:
        self._in_order = True

    def feed(self, data: bytes | memoryview, sink: Sink = _discard) -> None:
        """Take the next bytes of the file, hand the sink the next ones of the offered file, a little at a time.

        Raises:
            FormatError: it is not the right file. What was given before is worthless.
        """
        for portion in self._begin(data):
            sink(portion)

    def portions(self, data: bytes) -> Iterator[bytes]:
        """The same for whoever cannot take them as they come; it has to be drawn to its end before anything else."""
        return map(bytes, self._begin(data))

    def finish(self) -> bytes:
        """Say that this was all, and take the last bytes.

        Raises:
            FormatError: it is not the right file.
        """
        self._assert_order()
        return self._last()

    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """What is kept with the offered file, when everything has proved right."""

    @abstractmethod
    def _portions(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """See `portions`."""

    @abstractmethod
    def _last(self) -> bytes:
        """See `finish`."""

    def _begin(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        # No generator: nothing may depend on whether somebody draws it.
        self._assert_order()
        self._in_order = False
        return self._drawn(data)

    def _drawn(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        yield from self._portions(data)
        self._in_order = True

    def _assert_order(self) -> None:
        if not self._in_order:
            raise RuntimeError("the portions before were not drawn to their end, or proved to be wrong")
