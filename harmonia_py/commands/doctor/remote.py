"""A binary cache from outside: requests as Nix makes them, and answers with everything that can be judged.

Source: `src/libstore/filetransfer.cc` of Nix. Up to 2.13 it sends no Accept-Encoding; neither do we, unless told.
"""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, Self

import aiohttp
from aiohttp import hdrs
from msgspec import Struct
from msgspec.structs import replace
from yarl import URL

from harmonia_py import __version__
from harmonia_py.commands.doctor.finding import NoAnswer
from harmonia_py.upstream.client import proxy_for

# As Nix does.
MAX_REDIRECTS: Final = 10
# How often, and for how long, a check waits when the server asks for it (Retry-After).
_MOST_WAITS: Final = 3
_LONGEST_WAIT: Final = 5
_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 20.0


class Answer(Struct, frozen=True):
    """An answer, its body read up to a limit.

    Attributes:
        status: of HTTP.
        headers: the values of a header that came twice are joined by commas; names in lower case.
        body: empty for HEAD.
        whole: whether `body` is all of it.
        seconds: from the question to the first byte.
        url: that answered, after redirects.
        redirects: how many.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool
    seconds: float
    url: str
    redirects: int

    def header(self, name: str) -> str:
        """The value of the header; empty when it is not there."""
        return self.headers.get(name.lower(), "").strip()


class Remote:
    """One cache. Enter it inside the event loop that uses it.

    Args:
        url: of the cache, with or without a slash at the end.
        authorization: the value of that header, for its own host.
        tls: how to know its certificate; None for the system's way.
        proxies: whether to go through the proxies that the environment names, and to use its netrc.
    """

    def __init__(
        self,
        url: str,
        authorization: str | None = None,
        tls: ssl.SSLContext | None = None,
        *,
        proxies: bool = True,
    ) -> None:
        self._base = URL(url.rstrip("/") + "/", encoded=True)
        # For people and logs: without the password that the URL may have.
        self.url = str(self._base.with_user(None)).rstrip("/")
        self._authorization = authorization
        self._proxies = proxies
        self.tls = tls
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = self._open_session()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(
        self, path: str, limit: int, *, method: str = hdrs.METH_GET, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer at `path`, relative to the cache or absolute; at most `limit` bytes of it are read.

        Raises:
            NoAnswer: there is no HTTP answer, or it is cut in the middle.
        """
        async with self.open(path, method=method, headers=headers) as (answer, stream):
            parts, size = [], 0
            async for data in stream:
                parts.append(data[: limit - size])
                size += len(data)
                if size > limit:
                    break
            return replace(answer, body=b"".join(parts), whole=size <= limit)

    @asynccontextmanager
    async def open(
        self, path: str, *, method: str = hdrs.METH_GET, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        """An answer without its body, and the body in pieces.

        Raises:
            NoAnswer: as `ask`.
        """
        try:
            target = self._base.join(URL(path, encoded=True))
            began = time.perf_counter()
            async with await self._request(method, target, headers or {}) as response:
                yield _answer(response, time.perf_counter() - began), response.content.iter_chunked(65536)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _explained(error, self._base) from error

    async def _request(self, method: str, target: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        sent = dict(headers)
        if self._authorization is not None and target.origin() == self._base.origin():
            sent[hdrs.AUTHORIZATION] = self._authorization
        proxy = proxy_for(target) if self._proxies else None
        waits = 0
        while True:
            response = await self._session.request(
                method, target, proxy=proxy, headers=sent, allow_redirects=True, max_redirects=MAX_REDIRECTS
            )
            wait = response.headers.get(hdrs.RETRY_AFTER, "")
            limited = response.status == HTTPStatus.TOO_MANY_REQUESTS and wait.isdecimal()
            if not limited or int(wait) > _LONGEST_WAIT or waits == _MOST_WAITS:
                return response
            # The server limits requests per client, and the checks send many: that is no fault of the server.
            response.release()
            waits += 1
            await asyncio.sleep(int(wait))

    async def connections_for_two(self, path: str) -> int:
        """The number of connections that two requests for `path`, one after the other, take: 1 where they are kept.

        Raises:
            NoAnswer: as `ask`.
        """
        created = 0

        async def count(*_: object) -> None:
            nonlocal created
            created += 1

        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(count)
        fresh = Remote(str(self._base), self._authorization, self.tls, proxies=self._proxies)
        fresh._session = fresh._open_session(tracing)
        async with fresh._session:
            await fresh.ask(path, 65536)
            await fresh.ask(path, 65536)
        return created

    def _open_session(self, *tracing: aiohttp.TraceConfig) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.tls or ssl.create_default_context()),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={hdrs.USER_AGENT: f"harmonia-py-doctor/{__version__}", hdrs.ACCEPT: "*/*"},
            skip_auto_headers=[hdrs.ACCEPT_ENCODING],
            # For its netrc; where an Authorization header was given, both would contradict each other.
            trust_env=self._proxies and self._authorization is None,
            trace_configs=list(tracing),
        )


def _answer(response: aiohttp.ClientResponse, seconds: float) -> Answer:
    headers = {name.lower(): ", ".join(response.headers.getall(name)) for name in response.headers}
    return Answer(
        status=response.status,
        headers=headers,
        body=b"",
        whole=True,
        seconds=seconds,
        url=str(response.url),
        redirects=len(response.history),
    )


_HANGS: Final = "a firewall that drops packets, a server that hangs, or a proxy that waits for one"
_CUT: Final = "its log says why; a proxy in front may have a time limit, or a full disk for its buffers"
_NOT_TRUSTED: Final = (
    "serve the full chain, renew it when it is too old, and name the host by which clients know it; "
    "where the authority is your own, clients need it as ssl-cert-file in nix.conf"
)
_REFUSED: Final = "start the server; look at `bind` and the port; a firewall may refuse as well"

# From the special to the general: what an error is, in words, and what to do about it.
_EXPLANATIONS: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str], ...]] = (
    (aiohttp.ClientConnectorCertificateError, "the certificate of {place} is not trusted: {error}", _NOT_TRUSTED),
    (aiohttp.ClientSSLError, "{place} does not speak TLS as expected: {error}", "try http:// instead of https://"),
    (aiohttp.ClientConnectorDNSError, "the name {host} has no address", "look for a typing error, or mend the DNS"),
    (aiohttp.TooManyRedirects, "it redirects in circles", "mend the redirects of the web server"),
    (TimeoutError, "no answer from {place} in time", _HANGS),
    (aiohttp.ClientConnectorError, "cannot connect to {place}: {error}", _REFUSED),
    (
        (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionError, aiohttp.ClientOSError),
        "the connection was cut in the middle of the answer",
        _CUT,
    ),
    (Exception, "no HTTP: {error}", "another service may have this address"),
)


def _explained(error: Exception, base: URL) -> NoAnswer:
    what, remedy = next((what, remedy) for kind, what, remedy in _EXPLANATIONS if isinstance(error, kind))
    place = f"{base.host}:{base.port}"
    return NoAnswer(what.format(place=place, host=base.host, error=_reason(error)), remedy)


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return os.strerror(error.errno).lower() if error.errno else str(error)
    return str(error) or type(error).__name__
