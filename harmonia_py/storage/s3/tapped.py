"""Long objects that threads read straight from the socket, where the bucket is spoken to without TLS.

The library of buckets hands each portion from thread to thread and through the event loop: a gibibyte takes it 1.3
seconds of a processor, and 0.3 where a thread receives from the socket. What comes ahead of the client waits in the
kernel. When something goes wrong the library goes on from there, which knows how often to try again, and what to say.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from contextlib import suppress
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import obstore
from aiohttp import hdrs
from obstore.exceptions import BaseError
from obstore.store import S3Store
from yarl import URL

from harmonia_py.cache.source import Pause
from harmonia_py.errors import StorageError, UpstreamUnreachable
from harmonia_py.runtime.socket_tap import SocketTap, tap
from harmonia_py.storage.s3.signed_requests import client_session

# Below this, a connection of its own costs more than it saves.
_WORTH_BYTES: Final = 2 * 1024**2
# A thread is woken for so many: a hand-over costs as much as to receive 100 KiB.
_WAKE_BYTES: Final = 1024**2
_GOOD: Final = timedelta(minutes=5)
_ANSWER_SECONDS: Final = 8.0
_STALL_SECONDS: Final = 60.0


class TappedObjects:
    """Reads objects of one bucket. It belongs to the event loop in which it is made, and connects when first used.

    Args:
        store: signs the requests.
    """

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def pieces(self, name: str, etag: str | None, start: int, end: int) -> Generator[bytes | Pause, None, int]:
        """Bytes from `start` on, in a thread; returns `end`, or the first byte that has to come in another way.

        Raises:
            StorageError: the event loop has ended.
        """
        if etag is None or end - start < _WORTH_BYTES:
            return start
        body = _Body()
        try:
            yield self._pause(partial(self._open, body, name, etag, start, end))
            while start < end and body.tap is not None:
                data = body.tap.read()
                if data:
                    start += len(data)
                    yield data
                else:
                    yield self._pause(partial(body.tap.wait, _WAKE_BYTES))
        except UpstreamUnreachable:
            pass
        finally:
            with suppress(RuntimeError):  # the loop has ended, and every connection with it
                self._loop.call_soon_threadsafe(body.close)
        return start

    async def _open(self, body: "_Body", name: str, etag: str, start: int, end: int) -> None:
        if self._session is None:
            self._session = client_session()
        headers = {hdrs.RANGE: f"bytes={start}-{end - 1}", hdrs.IF_MATCH: etag}
        # Whatever goes wrong: the library asks again, and knows what the answer means.
        with suppress(BaseError, aiohttp.ClientError, OSError, TimeoutError, ValueError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                url = await obstore.sign_async(self._store, "GET", name, _GOOD)
                body.response = await self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False)
            response = body.response
            if response.status == HTTPStatus.PARTIAL_CONTENT and response.content_length == end - start:
                body.tap = tap(response, end - start, _STALL_SECONDS)

    def _pause(self, call: Callable[[], Coroutine[Any, Any, None]]) -> Pause:
        def wait() -> None:
            try:
                asyncio.run_coroutine_threadsafe(call(), self._loop).result()
            except CancelledError:
                raise StorageError("a download was given up") from None

        return Pause(0.0, call, wait)


class _Body:
    """An answer of the bucket, and the tap on it; None where there is none."""

    def __init__(self) -> None:
        self.response: aiohttp.ClientResponse | None = None
        self.tap: SocketTap | None = None

    def close(self) -> None:
        """Called once, in the event loop, when no thread is inside the tap."""
        if self.tap is not None:
            self.tap.close()
        if self.response is not None:
            self.response.close()
