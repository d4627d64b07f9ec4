"""A file of an upstream as what comes in: opened, resumed where a connection is cut, and blamed when it is wrong."""

import logging
from abc import ABC, abstractmethod
from contextlib import ExitStack

from harmonia_py.contents.file_check import FileCheck
from harmonia_py.contents.incoming import Lane
from harmonia_py.contents.memory import UNPACKING
from harmonia_py.errors import FormatError, HarmoniaError, UpstreamError, UpstreamProtocolError
from harmonia_py.mirror.mirror_metrics import MirrorCounters
from harmonia_py.mirror.stream import Stream
from harmonia_py.mirror.upstream import Body, Resume

_log = logging.getLogger(__name__)


class UpstreamFile(ABC):
    """An `Incoming` from an upstream.

    Args:
        lane: where it comes in.
        counters: what is counted.
    """

    def __init__(self, lane: Lane, counters: MirrorCounters) -> None:
        self.lane = lane
        self.size: int | None = None
        self._counters = counters
        self._share = UNPACKING.share()

    async def open(self) -> Stream | None:
        """The file at the upstream that was found to have it, resumed where a connection is cut.

        Raises:
            Overloaded: there is no memory for it for too long.
        """
        with ExitStack() as held:
            held.callback(self._share.close)
            await self._share.grow(self._memory)
            body = await self._open(None)
            if body is None:
                return None
            held.callback(body.close)
            self.size = self._agreed_size(body)
            await self._share.grow(self._memory)  # perhaps another upstream has it in another compression
            held.pop_all()  # from now on they are the stream's
        return Stream(body, self._open, self._share)

    def fault(self, error: FormatError) -> UpstreamError:
        """The upstream's."""
        return UpstreamProtocolError(f"its file is not what it should be: {error}")

    async def failed(self, error: HarmoniaError) -> None:
        """Count it, and blame the upstream if it is to blame."""
        self._counters.failures.add()
        _log.warning("%s: not kept: %s", self, error)
        if isinstance(error, UpstreamError):
            self._blame(error)

    async def kept(self) -> None:
        """Count it."""
        self._counters.fetched.add()

    @property
    @abstractmethod
    def room(self) -> int:
        """How many bytes the file takes at most, more or less."""

    @property
    @abstractmethod
    def _memory(self) -> int:
        """How many bytes of memory it takes to check the file and to make another one of it, without a wide window."""

    @abstractmethod
    def check(self) -> FileCheck:
        """The check of the file."""

    @abstractmethod
    async def _open(self, resume: Resume | None) -> Body | None:
        """The file from its beginning, or the rest of it where it was opened before; None when no upstream has it."""

    @abstractmethod
    def _agreed_size(self, body: Body) -> int | None:
        """The length of the file that is offered, as far as it is known.

        Raises:
            UpstreamProtocolError: the upstream contradicts itself.
        """

    @abstractmethod
    def _blame(self, error: UpstreamError) -> None:
        """Note that the opened file proved to be wrong, or could not be read to its end."""
