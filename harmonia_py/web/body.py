"""How a download becomes a response: validators, ranges, and which way the bytes go."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.cache.source import Download, Piece
from harmonia_py.errors import HarmoniaError
from harmonia_py.web import coding
from harmonia_py.web.errors import error_response
from harmonia_py.web.figures import CLIENT, FAULT, SHUTDOWN, SOURCE, Sending, kind_of, path_of
from harmonia_py.web.limits import answer_begins
from harmonia_py.web.ranges import ByteRange, Unsatisfiable, has_beginning, if_range_holds, matches, parse_range
from harmonia_py.web.state import SERVING, TRANSFERS, Rules
from harmonia_py.web.transfer import Cut, DownloadResponse, Transfers, reset_unless_finished

_log = logging.getLogger(__name__)

# Below this a download is read into memory and leaves with its headers in one write.
SMALL_BYTES: Final = 64 * 1024

Headers = Mapping[str, str]

IMMUTABLE: Final = "public, max-age=31536000, immutable"


async def respond_bytes(request: web.Request, data: bytes, *, etag: str | None, headers: Headers) -> web.Response:
    """Answer with `data`, or 304 when the client has it.

    `etag` is without quotes, None for what is another one each time; `headers` has the Content-Type.
    """
    all_headers = dict(headers)
    rules = request.app[SERVING].rules
    name = select_coding(rules, all_headers, len(data), _wanted_by(request))
    if etag is not None:
        all_headers[hdrs.ETAG] = quoted(etag, name)
        if _has_it(request, all_headers[hdrs.ETAG]):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=_not_modified(all_headers))
    return web.Response(body=await encode(rules, request.app[TRANSFERS], data, name), headers=all_headers)


async def encode(rules: Rules, transfers: Transfers, data: bytes, name: str | None) -> bytes:
    """`data` in the coding `name`; in a thread when it is long."""
    if name is None:
        return data
    if len(data) <= SMALL_BYTES:
        return rules.coding.encode(name, data)
    return await transfers.in_thread(lambda: rules.coding.encode(name, data))


def select_coding(rules: Rules, headers: dict[str, str], size: int | None, wanted: str | None) -> str | None:
    """`wanted`, or None for a body that is not coded; `headers` says so from now on, and what it depends on."""
    if not rules.coding.covers(headers[hdrs.CONTENT_TYPE], size):
        return None
    headers[hdrs.VARY] = str(hdrs.ACCEPT_ENCODING)
    if wanted is not None:
        headers[hdrs.CONTENT_ENCODING] = wanted
    return wanted


def _wanted_by(request: web.Request) -> str | None:
    # There are no ranges of what is coded.
    return None if hdrs.RANGE in request.headers else selected_by(request)


def selected_by(request: web.Request) -> str | None:
    """The coding that the client would have for a body that is coded at all."""
    return coding.select(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, [])))


def quoted(etag: str, name: str | None) -> str:
    """The header `ETag`: each coding is a representation of its own."""
    return f'"{etag}"' if name is None else f'"{etag}-{name}"'


async def respond(request: web.Request, download: Download, headers: Headers) -> web.StreamResponse:
    """Answer with `download`, a range of it, 304 or 416; releases it. `headers` has the Content-Type."""
    with download:
        if download.redirect is not None:
            raise web.HTTPFound(download.redirect)
        # A client that was cut in the middle of what still grows waits for its end rather than begin again.
        whole = await download.whole() if download.whole is not None and _resumes(request) else None
        if whole is None:
            return await _respond(request, download, headers)
    with whole:
        return await _respond(request, whole, headers)


async def _respond(request: web.Request, download: Download, headers: Headers) -> web.StreamResponse:
    all_headers = dict(headers)
    name = select_coding(request.app[SERVING].rules, all_headers, download.size, _wanted_by(request))
    all_headers[hdrs.ETAG] = etag = quoted(download.etag, name)
    # Nix asks for the rest of a download that was cut only where the header stood.
    if (download.size is not None or download.whole is not None) and name is None:
        all_headers[hdrs.ACCEPT_RANGES] = "bytes"
    if _has_it(request, etag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=_not_modified(all_headers))
    if name is not None:
        coded = replace(download, size=None, pieces=_coded(request, name, download), file=None)
        return await _send(request, coded, DownloadResponse(headers=all_headers), None)
    if download.size is None:
        return await _send(request, download, DownloadResponse(headers=all_headers), None)
    try:
        part = _requested_range(request, etag, download.size)
    except Unsatisfiable:
        response = error_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        response.headers[hdrs.CONTENT_RANGE] = f"bytes */{download.size}"
        return response
    status = HTTPStatus.OK
    if part is not None:
        status = HTTPStatus.PARTIAL_CONTENT
        all_headers[hdrs.CONTENT_RANGE] = f"bytes {part.start}-{part.stop - 1}/{download.size}"
    part = part or ByteRange(0, download.size)
    size = part.stop - part.start
    if size <= SMALL_BYTES and request.method != hdrs.METH_HEAD:
        data = await request.app[TRANSFERS].read(download.pieces(part.start, part.stop))
        return web.Response(status=status, body=data, headers=all_headers)
    sized = DownloadResponse(status=status, headers=all_headers)
    sized.content_length = size
    return await _send(request, download, sized, part)


def _resumes(request: web.Request) -> bool:
    """Whether the client has the beginning. `If-Range` cannot hold: what grows has a tag for each download."""
    return (
        request.method == hdrs.METH_GET
        and hdrs.IF_RANGE not in request.headers
        and has_beginning(request.headers.get(hdrs.RANGE))
    )


def _coded(request: web.Request, name: str, download: Download) -> Callable[[int, int | None], Iterator[Piece]]:
    how = request.app[SERVING].rules.coding
    return lambda start, stop: how.pieces(name, download.pieces(start, stop))


async def _send(
    request: web.Request, download: Download, response: DownloadResponse, part: ByteRange | None
) -> web.StreamResponse:
    # HTTP/1.0 knows no chunks: there the end of the connection is the end of the body.
    chunked = part is None and request.version >= (1, 1)
    if chunked:
        response.enable_chunked_encoding()
    elif part is None:
        response.force_close()
    writer = await response.prepare(request)
    if request.method == hdrs.METH_HEAD or writer is None:
        return response
    answer_begins()
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    start, stop = (part.start, part.stop) if part is not None else (0, None)
    transfers = request.app[TRANSFERS]
    figures = transfers.figures
    response.sending = sending = Sending(figures.sent(kind_of(request, path_of(request))))
    try:
        pieces = download.pieces(start, stop)
        ends_with_connection = part is None and not chunked
        guard = reset_unless_finished(transport) if ends_with_connection else nullcontext()
        with figures.in_flight.one_more(), guard:
            await transfers.send(writer, transport, pieces, sending, chunked=chunked)
    except BaseException as error:
        # What has begun can only be cut: a clean end would pass off what was sent as the whole.
        transport.abort()
        figures.aborted[_reason(error)].add()
        if isinstance(error, HarmoniaError):
            _log.error("%s: cut: %s", request.rel_url.raw_path, error)  # the message is the cause
        elif not isinstance(error, ConnectionError | asyncio.CancelledError):
            _log.exception("%s: cut: unforeseen", request.rel_url.raw_path)
        # Also in place of a CancelledError, which comes when the server ends: nothing else runs in this task.
        raise Cut(response.status, sending) from error
    return response


def _reason(error: BaseException) -> str:
    if isinstance(error, HarmoniaError):
        return SOURCE
    if isinstance(error, asyncio.CancelledError):
        return SHUTDOWN
    return CLIENT if isinstance(error, ConnectionError) else FAULT


def _has_it(request: web.Request, quoted: str) -> bool:
    headers = request.headers.getall(hdrs.IF_NONE_MATCH, [])
    return any(matches(header, quoted) for header in headers)


def _requested_range(request: web.Request, quoted: str, size: int) -> ByteRange | None:
    # RFC 9110, section 14.2: a range is defined for GET alone.
    if request.method != hdrs.METH_GET or not if_range_holds(request.headers.get(hdrs.IF_RANGE), quoted):
        return None
    return parse_range(request.headers.get(hdrs.RANGE), size)


def _not_modified(headers: Headers) -> dict[str, str]:
    """What RFC 9110, section 15.4.5 wants of a 304."""
    kept = (hdrs.ETAG, hdrs.CACHE_CONTROL, hdrs.VARY)
    return {name: headers[name] for name in kept if name in headers}
