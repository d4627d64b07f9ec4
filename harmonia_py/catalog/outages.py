"""A catalog that may fail for a while: until it answers again, no request waits for it."""

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
        self._warning = RareWarning(_log)

    async def ask(self, question: Callable[[P], Awaitable[T]]) -> T:
        """The answer of the catalog.

        Raises:
            NotKept: it does not answer now.
        """
        if self._ports is None or time.monotonic() < self._asks_after:
            raise NotKept
        try:
            return await question(self._ports)
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
