"""Requests to one cache of a server, those that belong to a session among them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from harmonia_py.client.answers import SessionInfo, fields
from harmonia_py.client.http import HttpServer

T = TypeVar("T")

# Between two questions, beside the time that the server itself takes for an answer while it works.
_AGAIN_SECONDS: Final = 2.0


class CacheRequests:
    """Asks one cache.

    Args:
        server: where it is.
        root: its place on the server: `team/`, or nothing for the cache at `/`.
    """

    def __init__(self, server: HttpServer, root: str) -> None:
        self._server = server
        self._root = root

    def _place(self, session: SessionInfo, rest: str) -> str:
        """The place on the server of something that belongs to a session."""
        return f"{self._root}api/sessions/{session.id}/{rest}"

    async def _post(self, session: SessionInfo, verb: str, body: Any) -> Mapping[str, Any]:
        """The answer to a question in JSON, which is a JSON object.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        data = msgspec.json.encode(body, enc_hook=str)
        return fields((await self._server.ask("POST", self._place(session, verb), data)).json())


async def ask_again(ask: Callable[[], Awaitable[T]], times: int) -> T | None:
    """Ask a server that answers only when a long work of its own is done, until the answer is something that is true.

    None: so many questions had no such answer.
    """
    for _ in range(times):
        answer = await ask()
        if answer:
            return answer
        await asyncio.sleep(_AGAIN_SECONDS)
    return None
