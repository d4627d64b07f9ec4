"""Files sent past the server, to where it keeps them: in one request, or in parts that are sent at the same time.

Of parts, one that fails is sent again alone. Whatever goes wrong in the end, the server takes the file as well.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from harmonia_py.client.answers import SessionInfo, UploadInParts
from harmonia_py.client.cache_requests import ask_again
from harmonia_py.client.http import HttpServer
from harmonia_py.client.made_file import StoredFile
from harmonia_py.client.upload_api import UploadApi
from harmonia_py.errors import (
    HarmoniaError,
    NotPermitted,
    PushRefused,
    SessionEnded,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from harmonia_py.runtime.side_by_side import side_by_side

_MOST_ASKED: Final = 300
# Parts of one file: one connection does not fill the way to a distant bucket, and other files have theirs beside it.
_AT_ONCE: Final = 4
_URLS_AT_ONCE: Final = 32
# Servers give URLs for a quarter of an hour, in which a part has to begin.
_URL_SECONDS: Final = 600.0


class PastServer:
    """Sends files past the server, until that fails once.

    Args:
        api: names the places.
        elsewhere: sends files there, with no token.
    """

    def __init__(self, api: UploadApi, elsewhere: HttpServer) -> None:
        self._api = api
        self._elsewhere: HttpServer | None = elsewhere

    def may_take(self, session: SessionInfo, nar_size: int) -> bool:
        """Whether the file of a NAR may be long enough for this."""
        sizes = session.past_server
        return self._elsewhere is not None and sizes is not None and nar_size >= sizes.start

    async def send(self, session: SessionInfo, file: StoredFile) -> bool:
        """Send a file; False when it has to go to the server.

        Raises:
            SessionEnded: the session has.
            HarmoniaError: as `HttpServer.ask`, of the server.
        """
        if session.in_parts is not None and file.size in session.in_parts:
            upload = await self._api.begin_parts(session, file.name, file.size)
            if upload is not None:
                return await self._send_parts(file, upload)
        if session.past_server is None or file.size not in session.past_server:
            return False
        url = await self._api.url(session, file.name, file.size)
        if url is None or self._elsewhere is None:
            return False
        try:
            await self._elsewhere.ask("PUT", url, file.body)
        except HarmoniaError:  # whatever that place says: the server takes the file as well
            self._elsewhere = None
            return False
        return await self._is_taken(partial(self._api.finish, session, file.name))

    async def _send_parts(self, file: StoredFile, upload: UploadInParts) -> bool:
        elsewhere = self._elsewhere
        if elsewhere is None:  # another file has found meanwhile that nothing can be sent there
            return False
        parts = _Parts(self._api, elsewhere, file, upload)
        try:
            etags = await parts.send()
        except SessionEnded:
            raise
        except HarmoniaError:  # as for one request
            self._elsewhere = None
            with suppress(HarmoniaError):  # the server removes it when the session ends
                await self._api.give_up_parts(upload)
            return False
        return await self._is_taken(partial(self._api.finish_parts, upload, etags))

    async def _is_taken(self, ask: Callable[[], Awaitable[bool]]) -> bool:
        """Whether the server takes the file that it is asked to take."""
        try:
            await until_checked(ask)
        except SessionEnded:
            raise
        except PushRefused:  # the bytes that have arrived there are not this file
            self._elsewhere = None
            return False
        return True


class _Parts:
    """The parts of one file on their way."""

    def __init__(self, api: UploadApi, elsewhere: HttpServer, file: StoredFile, upload: UploadInParts) -> None:
        self._api = api
        self._elsewhere = elsewhere
        self._file = file
        self._upload = upload
        self._urls: dict[int, tuple[str, float]] = {}
        self._asking = asyncio.Lock()

    async def send(self) -> Sequence[str]:
        """Send all of them; what the other side calls each, in their order.

        Raises:
            HarmoniaError: one of them cannot be sent.
        """
        starts = range(0, self._file.size, self._upload.part_size)
        etags = [""] * len(starts)

        async def send(index: int) -> None:
            etags[index] = await self._send(index + 1, starts[index])

        await side_by_side(send, range(len(starts)), at_once=_AT_ONCE)
        return etags

    async def _send(self, number: int, start: int) -> str:
        body = self._file.slice(start, self._upload.part_size)
        try:
            answer = await self._elsewhere.ask("PUT", await self._url(number), body)
        except NotPermitted:  # it has waited for too long
            self._urls.pop(number, None)
            answer = await self._elsewhere.ask("PUT", await self._url(number), body)
        if not answer.etag:
            raise UpstreamProtocolError("the bucket does not say what it calls a part")
        return answer.etag

    async def _url(self, number: int) -> str:
        async with self._asking:
            url, until = self._urls.pop(number, ("", 0.0))
            if time.monotonic() < until:
                return url
            until = time.monotonic() + _URL_SECONDS
            urls = await self._api.part_urls(self._upload, number, _URLS_AT_ONCE)
            self._urls |= {number + further: (url, until) for further, url in enumerate(urls)}
            return self._urls.pop(number)[0]


async def until_checked(ask: Callable[[], Awaitable[bool]]) -> None:
    """Ask until the server has checked a file.

    Raises:
        UpstreamUnreachable: it does not finish.
    """
    # The server answers after a while in any case; it needs a second for 250 MB of NAR.
    if not await ask_again(ask, _MOST_ASKED):
        raise UpstreamUnreachable("the server does not finish to check this file")
