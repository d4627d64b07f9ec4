"""Checks of files that may take longer than a client, or a proxy before it, waits: the client asks again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

# Proxies wait for 60 seconds.
_ANSWER_SECONDS: Final = 20.0


class Checks:
    """Checks that go on in this process, whether their clients wait or not."""

    def __init__(self) -> None:
        self._checking: dict[str, asyncio.Task[None]] = {}

    async def is_done(self, key: str, check: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Begin a check, unless one under this key goes on, and wait for it; False when it is not done in time.

        Raises what the check raises.
        """
        checking = self._checking.get(key)
        if checking is None:
            checking = self._checking[key] = asyncio.create_task(check())
            checking.add_done_callback(lambda checking: self._checked(key, checking))
        return await _is_done(checking)

    def under_way(self, key: str) -> Awaitable[bool] | None:
        """The outcome of the check under this key, as of `is_done`; None when there is none in this process."""
        checking = self._checking.get(key)
        return None if checking is None else _is_done(checking)

    def _checked(self, key: str, checking: asyncio.Task[None]) -> None:
        if not checking.cancelled():
            checking.exception()  # the client may have left; when it asks again, a new check tells it
        if self._checking.get(key) is checking:
            del self._checking[key]


async def _is_done(checking: "asyncio.Task[None]") -> bool:
    done, _ = await asyncio.wait([checking], timeout=_ANSWER_SECONDS)
    if done:
        checking.result()
    return bool(done)
