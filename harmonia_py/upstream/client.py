"""One upstream over HTTP: requests, redirects and time-outs; what comes back is bytes or one of three errors.

Source: `src/libstore/filetransfer.cc` of Nix for the meaning of statuses; RFC 9110 for ranges.
"""

import copy
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Self
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # documented in its source alone

import aiohttp
from aiohttp import hdrs
from yarl import URL

from harmonia_py.errors import UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from harmonia_py.mirror.upstream import Body, Resume
from harmonia_py.mirror.upstream_metrics import UpstreamMetrics
from harmonia_py.nix.signing import PublicKey
from harmonia_py.runtime.retry_after import seconds_until
from harmonia_py.upstream.addresses import Guard, is_local
from harmonia_py.upstream.body import BodyReader, translated

# As Nix does.
_MAX_REDIRECTS: Final = 10
# Bytes that the framework reads from a connection ahead of the reader of a body: enough to fill a thread's turn.
_BUFFER_BYTES: Final = 512 * 1024

# 401 and 407 are not here: a wrong password would otherwise look like a cache that has nothing.
_ABSENT: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.FORBIDDEN})
_BUSY: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of an upstream, and the settings of connections to it.

    Attributes:
        url: of the cache, with or without a slash at the end.
        authorization: the value of that header, for its own host alone.
        tls: verifies its certificate; None: as the system does.
        connect_timeout: seconds until a connection stands.
        stall_timeout: seconds without a byte after which a connection is dead.
        local_network: whether it is inside this network, and may lead there; None: as its URL says (`is_local`).
        stays_secure: whether it must not lead from https to http. What is signed may come on any way; keys may not.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    local_network: bool | None = None
    stays_secure: bool = False


class HttpUpstream:
    """An `Upstream`. Enter it inside the event loop that uses it."""

    def __init__(
        self,
        place: Place,
        *,
        name: str,
        priority: int,
        public_keys: tuple[PublicKey, ...],
        metrics: UpstreamMetrics | None = None,
    ) -> None:
        self.name = name
        self.priority = priority
        self.public_keys = public_keys
        self.metrics = metrics or UpstreamMetrics()
        self._place = place
        self._base = URL(place.url.rstrip("/") + "/", encoded=True)
        self._proxy = proxy_for(self._base)
        local_network = is_local(self._base.host or "") if place.local_network is None else place.local_network
        self._guard = Guard(local_network=local_network, proxies=proxy_hosts())
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        # Without a limit: questions and downloads wait for their turns before they come here, because a wait for a
        # connection would look as if the upstream did not answer.
        connector = aiohttp.TCPConnector(limit=0, resolver=self._guard, ssl=self._place.tls or True, ttl_dns_cache=60)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._place.connect_timeout, sock_read=self._place.stall_timeout
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_BUFFER_BYTES,
            headers={hdrs.ACCEPT_ENCODING: "identity", hdrs.USER_AGENT: "harmonia-py"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def with_values(self, priority: int, public_keys: tuple[PublicKey, ...]) -> Self:
        """This upstream with another priority and other public keys, over the connections that it has."""
        other = copy.copy(self)
        other.priority = priority
        other.public_keys = public_keys
        return other

    async def open(self, url: str, resume: Resume | None = None) -> Body | None:
        """Ask the upstream for `url`, follow redirects, and read the answer's headers; None for a 404, 410 or 403.

        Raises:
            UpstreamUnreachable: it does not answer, or not in time, or says that it cannot for now.
            UpstreamProtocolError: its answer makes no sense, or leads where an upstream must not lead.
        """
        try:
            body = await self._open(url, resume)
        except UpstreamError as error:
            self.metrics.failed(error)
            raise
        (self.metrics.absent if body is None else self.metrics.found).add()
        return body

    async def _open(self, url: str, resume: Resume | None) -> Body | None:
        headers = {} if resume is None else _range_headers(resume)
        # The URL is the upstream's: nothing in it is decoded or encoded, because its query may be a signature.
        target = _joined(self._base, url)
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._get(target, headers)
            if response.status not in _REDIRECTS:
                return _body(response, resume, self._place.stall_timeout, self.metrics)
            location = response.headers.get(hdrs.LOCATION, "")
            response.release()
            target = _joined(target, location)
        raise UpstreamProtocolError("too many redirects")

    async def _get(self, target: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        if target.scheme not in ("http", "https") or not target.host:
            raise UpstreamProtocolError(f"a URL leads to {target.scheme or 'no'} instead of http or https")
        if self._place.stays_secure and self._base.scheme == "https" != target.scheme:
            raise UpstreamProtocolError("a URL leads from https to http")
        if not self._guard.allows(target.host):
            raise UpstreamProtocolError(f"a URL leads to {target.host}, inside this network")
        headers = dict(headers)
        if self._place.authorization is not None and target.origin() == self._base.origin():
            headers[hdrs.AUTHORIZATION] = self._place.authorization
        proxy = self._proxy if target.origin() == self._base.origin() else proxy_for(target)
        try:
            return await self._session.get(target, headers=headers, allow_redirects=False, proxy=proxy)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise translated(error) from error


def _joined(base: URL, text: str) -> URL:
    """The absolute URL of a URL in an upstream's narinfo or answer."""
    try:
        target = base.join(URL(text, encoded=True))
        # The library parses host and port only when they are read.
        if target.host:
            target.origin()
    except ValueError:
        raise UpstreamProtocolError("a URL leads nowhere") from None
    return target


def _range_headers(resume: Resume) -> dict[str, str]:
    headers = {str(hdrs.RANGE): f"bytes={resume.start}-"}
    if resume.validator is not None:
        headers[hdrs.IF_RANGE] = resume.validator
    return headers


def _body(
    response: aiohttp.ClientResponse, resume: Resume | None, stall_timeout: float, metrics: UpstreamMetrics
) -> Body | None:
    """The body that the headers announce; when there is none to read, the connection is given back."""
    try:
        if response.status not in _ABSENT:
            return _readable(response, resume, BodyReader(response, stall_timeout, metrics))
    except BaseException:
        response.release()
        raise
    response.release()
    return None


def _readable(response: aiohttp.ClientResponse, resume: Resume | None, reader: BodyReader) -> Body:
    _check_status(response)
    start, size = 0, response.content_length
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        if resume is None:
            raise UpstreamProtocolError("a part of a file came where all of it was asked for")
        start, size = _content_range(response.headers.get(hdrs.CONTENT_RANGE, ""))
    encoding = response.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    return Body(
        size=size,
        start=start,
        validator=_validator(response.headers),
        encoding=encoding if encoding not in ("", "identity") else None,
        max_age=_max_age(response.headers),
        read=reader.read,
        tap=reader.tap,
        close=reader.close,
    )


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    error: UpstreamError
    if status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        error = UpstreamUnreachable(f"it answered {status}", seconds_until(response.headers.get(hdrs.RETRY_AFTER, "")))
    else:
        error = UpstreamProtocolError(f"it answered {status}")
    error.status = status
    raise error


def _content_range(text: str) -> tuple[int, int | None]:
    """The first byte and the size of the whole, of `bytes 10-99/100`."""
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        raise UpstreamProtocolError("a part of a file came without saying which")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _validator(headers: Mapping[str, str]) -> str | None:
    etag = headers.get(hdrs.ETAG, "")
    if etag.startswith('"'):
        return etag
    # RFC 9110, section 13.1.5: a date will do where the file did not change in that very second.
    return headers.get(hdrs.LAST_MODIFIED)


def _max_age(headers: Mapping[str, str]) -> float | None:
    for directive in headers.get(hdrs.CACHE_CONTROL, "").lower().split(","):
        name, _, value = directive.strip().partition("=")
        if name == "max-age" and value.isdecimal():
            return float(value[:10])
    return None


def proxy_for(url: URL) -> URL | None:
    """The proxy by `http_proxy`, `https_proxy` and `no_proxy`."""
    proxies = getproxies_environment()
    if proxy_bypass_environment(url.host or "", proxies):
        return None
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return URL(proxy) if proxy else None


def proxy_hosts() -> frozenset[str]:
    """The hosts of all proxies that the environment names."""
    return frozenset(URL(proxy).host or "" for proxy in getproxies_environment().values())
