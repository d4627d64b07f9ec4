"""A catalog that may fail for a while: meanwhile requests go on without it, those that insist after two seconds."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from harmonia_py.contents.storage import NotKept
from harmonia_py.errors import StorageError
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

P = TypeVar("P")
T = TypeVar("T")

# How long a catalog that failed is left alone, so that not every request waits for it.
_REST_SECONDS: Final = 10.0
# How long a request waits that would cost much more without an answer.
_INSISTING_SECONDS: Final = 2.0
_NOT_TOLD: Final = "the catalog does not learn what is kept for now: %s"


class Outages(Generic[P]):
    """Passes questions and writes on to a catalog, unless it failed a moment ago.

    Args:
        ports: the catalog; None when there is none.
        clock: seconds, of which only differences count.
    """

    def __init__(self, ports: P | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ports = ports
        self._clock = clock
        # A full disk takes no writes, and still answers questions: each has a rest of its own.
        self._asks_after = 0.0
        self._tells_after = 0.0
        self._insisting = asyncio.Lock()
        self._insisted_in_vain = 0
        self._warning = RareWarning(_log)

    async def ask(self, question: Callable[[P], Awaitable[T]], *, insists: bool = False) -> T:
        """The answer of the catalog.

        Args:
            question: to it.
            insists: ask also a catalog that failed a moment ago: of such questions one at a time, for a short time.

        Raises:
            NotKept: it does not answer now.
        """
        if self._ports is None:
            raise NotKept
        if self._clock() >= self._asks_after:
            try:
                return await question(self._ports)
            except StorageError as error:
                self._asks_after = self._rest(error)
                raise NotKept from error
        if not insists:
            raise NotKept
        return await self._insist(self._ports, question)

    async def _insist(self, ports: P, question: Callable[[P], Awaitable[T]]) -> T:
        """Ask during the rest. An answer ends the rest; a failure leaves it as it is, so that it ends in its time."""
        failures = self._insisted_in_vain
        async with self._insisting:
            if self._insisted_in_vain > failures:  # another one failed while this question waited for its turn
                raise NotKept
            try:
                async with asyncio.timeout(_INSISTING_SECONDS):
                    answer = await question(ports)
            except (TimeoutError, StorageError) as error:
                self._insisted_in_vain += 1
                raise NotKept from error
            self._asks_after = 0.0
            return answer

    async def tell(self, telling: Callable[[P], Awaitable[object]]) -> bool:
        """Write to the catalog; False when it takes nothing now. Without a catalog there is nothing to write: True."""
        if self._ports is None:
            return True
        if self.rest_seconds() > 0:
            return False
        try:
            await telling(self._ports)
        except StorageError as error:
            self._tells_after = self._rest(error)
            return False
        return True

    def rest_seconds(self) -> float:
        """How long from now on nothing is written to the catalog."""
        return max(0.0, self._tells_after - self._clock())

    def _rest(self, error: StorageError) -> float:
        self._warning.say(_NOT_TOLD, error)
        return self._clock() + _REST_SECONDS
