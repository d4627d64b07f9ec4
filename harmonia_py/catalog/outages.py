"""A catalog that may fail for a while: until it answers again, no request waits for it."""

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
    """

    def __init__(self, ports: P | None) -> None:
        self._ports = ports
        # A full disk takes no writes, and still answers questions: each has a rest of its own.
        self._asks_after = 0.0
        self._tells_after = 0.0
        self._insisting = asyncio.Lock()
        self._warning = RareWarning(_log)

    async def ask(self, question: Callable[[P], Awaitable[T]], *, insists: bool = False) -> T:
        """The answer of the catalog.

        Args:
            question: to it.
            insists: ask also a catalog that failed a moment ago: of such questions one at a time, for a short time.

        Raises:
            NotKept: it does not answer now.
        """
        rests_until = self._asks_after
        if self._ports is None or (time.monotonic() < rests_until and not insists):
            raise NotKept
        if time.monotonic() >= rests_until:
            return await self._ask(self._ports, question)
        async with self._insisting:
            if self._asks_after > rests_until:  # it has failed again while this question waited for its turn
                raise NotKept
            try:
                async with asyncio.timeout(_INSISTING_SECONDS):
                    answer = await self._ask(self._ports, question)
            except TimeoutError as error:
                self._asks_after = time.monotonic() + _REST_SECONDS
                raise NotKept from error
            self._asks_after = 0.0
            return answer

    async def _ask(self, ports: P, question: Callable[[P], Awaitable[T]]) -> T:
        try:
            return await question(ports)
        except StorageError as error:
            self._asks_after = self._rest(error)
            raise NotKept from error

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
        return max(0.0, self._tells_after - time.monotonic())

    def _rest(self, error: StorageError) -> float:
        self._warning.say(_NOT_TOLD, error)
        return time.monotonic() + _REST_SECONDS
