"""Requests to one server, made again where that helps; the result is an answer or one of our errors."""

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar
from urllib.request import getproxies

import aiohttp
import msgspec
from aiohttp import hdrs
from msgspec import Struct
from yarl import URL

from harmonia_py import __version__, json_text
from harmonia_py.client.bodies import Body, payload_of
from harmonia_py.errors import (
    FormatError,
    HarmoniaError,
    NotAuthenticated,
    NotPermitted,
    PushConflict,
    PushRefused,
    SessionEnded,
    StorageFull,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from harmonia_py.runtime.retry_after import seconds_until

T = TypeVar("T")

CONNECT_SECONDS: Final = 15.0
STALL_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 120.0
"""A server that is restarted, with the proxy in front of it, is back before."""

_LATER: Final = frozenset({408, 429, 500, 502, 503, 504})
_REFUSALS: Final[Mapping[int, tuple[type[HarmoniaError], str]]] = {
    400: (PushRefused, ""),
    401: (NotAuthenticated, "the server does not take this token: "),
    403: (NotPermitted, ""),
    409: (PushConflict, ""),
    410: (SessionEnded, ""),
    411: (PushRefused, ""),
    413: (PushRefused, ""),
    422: (PushRefused, ""),
    507: (StorageFull, "the server has no room: "),
}
_MAX_ANSWER: Final = 64 * 1024 * 1024
_MAX_MESSAGE: Final = 500
_FIRST_SECONDS: Final = 0.25
_LONGEST_SECONDS: Final = 15.0
# A server that asks for more is not coming back for this push.
_MAX_RETRY_AFTER_SECONDS: Final = 120.0


class Answer(Struct, frozen=True):
    """The answer of a server.

    Attributes:
        status: 2xx, or 404 where the caller allows for it.
        data: the body.
        etag: what the server calls the bytes that it has; empty when it says nothing.
    """

    status: int
    data: bytes
    etag: str = ""

    def json(self) -> Any:
        """The body, parsed.

        Raises:
            UpstreamProtocolError: the answer is no JSON.
        """
        try:
            return json_text.decode(self.data)
        except FormatError as error:
            raise UpstreamProtocolError(f"the server's answer is no JSON: {error}") from None


class HttpServer:
    """A server and the token for it. Enter it inside the event loop that uses it.

    Args:
        url: what other URLs are relative to.
        token: sent with every request; None for none.
        patience: seconds for which a request is made again and again before it counts as failed.
        connections: open at the same time.
        tls: verifies its certificate; None: as the system does.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        patience: float = PATIENCE_SECONDS,
        connections: int = 16,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = URL(url.rstrip("/") + "/")
        self._token = token
        self._patience = patience
        self._connections = connections
        self._tls = tls
        # Through a proxy the connection may be TLS also where the URL is not.
        self._may_need_tls = bool(getproxies())
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._connections, ttl_dns_cache=60)
        headers = {hdrs.USER_AGENT: f"harmonia-py/{__version__}"}
        if self._token is not None:
            headers[hdrs.AUTHORIZATION] = f"Bearer {self._token}"
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            trust_env=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(
        self,
        method: str,
        place: str,
        body: Body | None = None,
        *,
        absent: bool = False,
        stall: float = STALL_SECONDS,
    ) -> Answer:
        """The answer to a request, made again while the server cannot be reached or says that it cannot now.

        Args:
            method: of HTTP.
            place: relative to the server's URL.
            body: of the request.
            absent: whether 404 is an answer rather than an error.
            stall: seconds for which nothing may happen.

        Raises:
            UpstreamUnreachable: the server does not answer, or cannot, for longer than the patience.
            UpstreamProtocolError: the answer makes no sense.
            NotAuthenticated, NotPermitted: the token is not good for this.
            SessionEnded, PushRefused, StorageFull: it refuses.
        """
        return await self.again_and_again(lambda: self.once(method, place, body, absent=absent, stall=stall))

    async def again_and_again(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of `attempt`, which is repeated while the server cannot be reached or says that it cannot now.

        Raises:
            UpstreamUnreachable: it failed for longer than the patience.
        """
        end, bound = time.monotonic() + self._patience, _FIRST_SECONDS
        while True:
            try:
                return await attempt()
            except UpstreamUnreachable as error:
                wait = _pause(bound, error.retry_after)
                if time.monotonic() + wait > end:
                    raise
            await asyncio.sleep(wait)
            bound = min(2 * bound, _LONGEST_SECONDS)

    async def once(
        self,
        method: str,
        place: str,
        body: Body | None = None,
        *,
        absent: bool = False,
        stall: float = STALL_SECONDS,
    ) -> Answer:
        """The answer to a request that is made once; otherwise as `ask`."""
        url = self.url.join(parse_url(place))
        try:
            async with self._session.request(
                method,
                url,
                ssl=self._context() if self._may_need_tls or url.scheme == "https" else True,
                data=None if body is None else payload_of(body),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=stall),
            ) as response:
                return await _read(response, absent=absent)
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from error

    def _context(self) -> ssl.SSLContext:
        """The context for TLS. To read the certificates of the machine takes as long as to ask about 1,000 paths."""
        self._tls = self._tls or ssl.create_default_context()
        return self._tls


def _pause(bound: float, retry_after: float | None) -> float:
    """Seconds to wait before the next attempt: anything up to `bound`, or the time of `Retry-After` if there was one.

    A little of the jitter is kept then: all clients were told the same.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    delay = random.uniform(0, bound)  # noqa: S311  # spreads clients, hides nothing
    return delay if retry_after is None else min(retry_after, _MAX_RETRY_AFTER_SECONDS) + min(delay, 1.0)


def parse_url(text: str) -> URL:
    """A URL, or what is relative to one.

    Raises:
        UpstreamProtocolError: it is none.
    """
    try:
        url = URL(text, encoded=True)
        _ = url.host, url.port  # they are read when they are asked for
    except ValueError as error:
        raise UpstreamProtocolError(f"not a URL: {error}") from None
    return url


async def _read(response: aiohttp.ClientResponse, *, absent: bool) -> Answer:
    data, status = bytearray(), response.status
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > _MAX_ANSWER:
            raise UpstreamProtocolError("the server's answer has no end")
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES or (absent and status == HTTPStatus.NOT_FOUND):
        return Answer(status, bytes(data), response.headers.get(hdrs.ETAG, ""))
    message = _message(data) or HTTPStatus(status).phrase
    if status in _LATER:
        raise UpstreamUnreachable(
            f"the server says {status}: {message}", seconds_until(response.headers.get(hdrs.RETRY_AFTER, ""))
        )
    raise _refusal(status, message)


def _refusal(status: int, message: str) -> HarmoniaError:
    refused = _REFUSALS.get(status)
    if refused is None:
        return UpstreamProtocolError(f"the server answers {status}: {message}")
    kind, words = refused
    return kind(f"{words}{message}")


class _Described(msgspec.Struct):
    """An error as RFC 6749, section 5.2, has it."""

    error_description: str


def _message(data: bytearray) -> str:
    try:
        text = json_text.decode(data, _Described).error_description[:_MAX_MESSAGE]
    except FormatError:
        text = data[:_MAX_MESSAGE].decode(errors="replace").strip().partition("\n")[0]
    return "".join(c if c.isprintable() else "?" for c in text)


def _unreachable(error: Exception) -> HarmoniaError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UpstreamProtocolError(f"the server's certificate is not trusted: {error}")
    if isinstance(error, aiohttp.InvalidURL):
        return UpstreamProtocolError(f"not a URL: {error}")
    return UpstreamUnreachable(f"no connection to the server: {error or type(error).__name__}")
