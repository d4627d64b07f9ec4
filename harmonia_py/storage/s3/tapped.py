"""Long objects that threads receive straight from the socket, where the bucket is spoken to without TLS.

The library of buckets hands each portion from thread to thread and through the event loop, which takes most of the
processor time of a download. Here a thread receives from the socket, and what comes ahead of the client waits in the
kernel. A request that fails, or a body that is cut or stalls, is not tried again here: `pieces` says how far it came,
and the library reads the rest, with its own retries and errors.
"""

import asyncio
import time
from collections.abc import Generator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Final

import aiohttp
import obstore
from aiohttp import hdrs
from obstore.exceptions import BaseError
from obstore.store import S3Store
from yarl import URL

from harmonia_py.cache.source import Pause
from harmonia_py.errors import StorageError
from harmonia_py.runtime.socket_tap import ReceiveError, SocketTap, tap
from harmonia_py.storage.s3.signed_requests import client_session

# Below this, a connection of its own costs more than it saves.
_WORTH_BYTES: Final = 2 * 1024**2
# A thread is woken for so many: a hand-over costs as much as to receive 100 KiB.
_WAKE_BYTES: Final = 1024**2
_URL_VALID: Final = timedelta(minutes=5)
_ANSWER_SECONDS: Final = 8.0
_STALL_SECONDS: Final = 60.0
# A thread waits so long for the event loop, which itself ends each wait after one of the times above.
_LOOP_SECONDS: Final = 90.0
# After so many requests in a row without a body, the library reads everything for some time: a proxy may refuse signed
# URLs, or the bucket may be slower than `_ANSWER_SECONDS`.
_FAILURES: Final = 3
_REST_SECONDS: Final = 60.0


class TappedObjects:
    """Reads objects of one bucket. It belongs to the event loop in which it is made, and connects when first used.

    Args:
        store: signs the requests.
    """

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._session: aiohttp.ClientSession | None = None
        self._open_bodies: set[_Body] = set()
        self._is_closed = False
        self._failures = 0
        self._rests_until = 0.0

    async def aclose(self) -> None:
        """End all downloads, which raise `StorageError` from now on, and close the connections."""
        self._is_closed = True
        for body in self._open_bodies:
            body.shut_down()
        if self._session is not None:
            await self._session.close()

    def pieces(self, name: str, etag: str | None, start: int, end: int) -> Generator[bytes | Pause, None, int]:
        """Bytes from `start` on, in a thread; returns the first byte that is to be read in another way, or `end`.

        Raises:
            StorageError: this was closed.
        """
        if etag is None or end - start < _WORTH_BYTES or time.monotonic() < self._rests_until:
            return start
        body = _Body()
        late = StorageError("the bucket does not answer in time")
        try:
            open_it = partial(self._open, body, name, etag, start, end)
            yield Pause.until_done(open_it, self._loop, _LOOP_SECONDS, late)
            while start < end and body.tap is not None and not body.has_stalled:
                data = body.tap.read()
                if data:
                    start += len(data)
                    yield data
                else:
                    yield Pause.until_done(body.wait, self._loop, _LOOP_SECONDS, late)
        except ReceiveError:
            pass
        finally:
            self._end(body)
        if self._is_closed:
            raise StorageError("a download was given up")
        return start

    async def _open(self, body: "_Body", name: str, etag: str, start: int, end: int) -> None:
        headers = {hdrs.RANGE: f"bytes={start}-{end - 1}", hdrs.IF_MATCH: etag}
        with suppress(BaseError, aiohttp.ClientError, OSError, TimeoutError, ValueError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                url = await obstore.sign_async(self._store, "GET", name, _URL_VALID)
                if self._is_closed:
                    return
                if self._session is None:
                    # Without a limit: each download has a connection for as long as its client takes.
                    self._session = client_session(0)
                body.response = await self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False)
            if not self._is_closed and _is_range(body.response, etag, start, end):
                body.tap = tap(body.response, end - start, _STALL_SECONDS)
            self._open_bodies.add(body)
        if body.tap is not None:
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures, self._rests_until = 0, time.monotonic() + _REST_SECONDS

    def _end(self, body: "_Body") -> None:
        """Close a body, inside which no thread is any more."""
        try:
            self._loop.call_soon_threadsafe(self._close, body)
        except RuntimeError:  # the loop has ended, and all of its connections; the tap has a socket of its own
            if body.tap is not None:
                body.tap.close()

    def _close(self, body: "_Body") -> None:
        self._open_bodies.discard(body)
        body.close()


class _Body:
    """An answer of the bucket, and the tap on it; None where there is none.

    Attributes:
        has_stalled: whether nothing came for too long.
    """

    def __init__(self) -> None:
        self.response: aiohttp.ClientResponse | None = None
        self.tap: SocketTap | None = None
        self.has_stalled = False

    async def wait(self) -> None:
        """Return when there may be more, or none will come. No caller of `Pause.wait` knows the errors of a tap."""
        assert self.tap is not None
        try:
            await self.tap.wait(_WAKE_BYTES)
        except ReceiveError:
            self.has_stalled = True

    def shut_down(self) -> None:
        """End the connection, in the event loop; a thread may be inside the tap."""
        if self.tap is not None:
            self.tap.shut_down()
        if self.response is not None:
            self.response.close()

    def close(self) -> None:
        """Called once, in the event loop, when no thread is inside the tap."""
        if self.tap is not None:
            self.tap.close()
        if self.response is not None:
            self.response.close()


def _is_range(response: aiohttp.ClientResponse, etag: str, start: int, end: int) -> bool:
    """Whether the body is these bytes of this object."""
    return (
        response.status == HTTPStatus.PARTIAL_CONTENT
        and response.content_length == end - start
        and response.headers.get(hdrs.CONTENT_RANGE, "").startswith(f"bytes {start}-{end - 1}/")
        and response.headers.get(hdrs.ETAG, etag) == etag
    )
