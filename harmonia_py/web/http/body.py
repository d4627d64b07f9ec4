"""A download as a response: validators, ranges, and the way that the bytes take."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from msgspec.structs import replace

from harmonia_py.cache.source import Download
from harmonia_py.errors import HarmoniaError
from harmonia_py.web.admission.clients import share_of
from harmonia_py.web.admission.limits import answer_in
from harmonia_py.web.http.coding import select
from harmonia_py.web.http.errors import error_response, not_found
from harmonia_py.web.http.making import turn_of
from harmonia_py.web.http.pieces import at_hand
from harmonia_py.web.http.ranges import (
    ByteRange,
    Unsatisfiable,
    has_beginning,
    if_match_holds,
    if_range_holds,
    matches,
    parse_range,
)
from harmonia_py.web.http.redirects import redirection
from harmonia_py.web.http.transfer import DownloadResponse, ResponseAborted, Transfers, reset_unless_finished
from harmonia_py.web.http_metrics import CLIENT, FAULT, SHUTDOWN, SOURCE, Sending, kind_of, path_of
from harmonia_py.web.state import CLIENTS, SERVING, TRANSFERS, ServingSettings

_log = logging.getLogger(__name__)

# Below this a download is read into memory and leaves with its headers in one write.
SMALL_BYTES: Final = 64 * 1024

Headers = Mapping[str, str]

IMMUTABLE: Final = "max-age=31536000, immutable"


async def respond_bytes(request: web.Request, data: bytes, *, etag: str | None, headers: Headers) -> web.Response:
    """Answer with `data`, 304 when the client has it, or 412.

    `etag` is without quotes, None for a body that differs each time; `headers` has the Content-Type.
    """
    all_headers = dict(headers)
    settings = request.app[SERVING].settings
    name = select_coding(settings, all_headers, len(data), _coding_for(request))
    if etag is not None:
        all_headers[hdrs.ETAG] = quoted(etag, name)
    condition = _respond_to_condition(request, all_headers)
    if condition is not None:
        return condition
    return web.Response(body=await encode(settings, request.app[TRANSFERS], data, name), headers=all_headers)


async def encode(settings: ServingSettings, transfers: Transfers, data: bytes, name: str | None) -> bytes:
    """`data` in the coding `name`; in a thread when it is long."""
    if name is None:
        return data
    if len(data) <= SMALL_BYTES:
        return settings.coding.encode(name, data)
    return await transfers.threads.run(settings.coding.encode, name, data)


def select_coding(settings: ServingSettings, headers: dict[str, str], size: int | None, name: str | None) -> str | None:
    """The coding `name`, or None for a body that is not coded; adds Content-Encoding and Vary to `headers` to match."""
    if not settings.coding.covers(headers[hdrs.CONTENT_TYPE], size):
        return None
    headers[hdrs.VARY] = str(hdrs.ACCEPT_ENCODING)
    if name is not None:
        headers[hdrs.CONTENT_ENCODING] = name
    return name


def _coding_for(request: web.Request) -> str | None:
    # There are no ranges of a coded body.
    return None if hdrs.RANGE in request.headers else selected_by(request)


def selected_by(request: web.Request) -> str | None:
    """The coding that the client prefers, for a body that is coded at all."""
    return select(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, [])))


def quoted(etag: str, name: str | None) -> str:
    """The header `ETag` of the body in the coding `name`: each coding is a representation of its own."""
    return f'"{etag}"' if name is None else f'"{etag}-{name}"'


async def respond(
    request: web.Request, download: Download, headers: Headers, *, coded: bool = True
) -> web.StreamResponse:
    """Answer with `download`, a range of it, where else it is, 304, 412 or 416; releases it.

    Args:
        request: the request that is answered.
        download: the body, or what a range of it is taken from.
        headers: among them the Content-Type.
        coded: whether clients that accept a coding may get one, where the type is coded at all.
    """
    with download:
        elsewhere = await redirection(request, download)
        if elsewhere is not None:
            return elsewhere
        if download.made is not None:
            return await _respond_when_made(request, download.etag, download.made, headers)
        # A client whose download was cut while the file was growing waits for the whole file rather than begin again.
        whole = await download.whole() if download.whole is not None and _resumes(request) else None
        if whole is None:
            return await _respond(request, download, headers, coded=coded)
    with whole:
        return await _respond(request, whole, headers, coded=coded)


async def _respond_when_made(
    request: web.Request, etag: str, make: Callable[[], Awaitable[Download | None]], headers: Headers
) -> web.StreamResponse:
    """Make the download and answer with it; for HEAD, and for a client that has it, the validator is enough."""
    all_headers = {**headers, hdrs.ETAG: quoted(etag, None), hdrs.ACCEPT_RANGES: "bytes"}
    condition = _respond_to_condition(request, all_headers)
    if condition is not None:
        return condition
    if request.method == hdrs.METH_HEAD:
        # Without the length, which RFC 9110, section 8.6 lets a HEAD leave out where finding it out is the work.
        response = DownloadResponse(headers=all_headers)
        await response.prepare(request)
        return response
    async with turn_of(request):
        made = await make()
    if made is None:
        return not_found()
    with made:
        return await _respond(request, made, headers, coded=False)


async def _respond(request: web.Request, download: Download, headers: Headers, *, coded: bool) -> web.StreamResponse:
    all_headers = dict(headers)
    name = None
    if coded and request.app[SERVING].settings.coding.covers(headers[hdrs.CONTENT_TYPE], download.size):
        all_headers[hdrs.VARY] = str(hdrs.ACCEPT_ENCODING)
        name = _coding_for(request)
    if name is None:
        return await _respond_uncoded(request, download, all_headers)
    if request.method == hdrs.METH_HEAD:
        return await _respond_coded(request, download, all_headers, name)
    with request.app[TRANSFERS].coders.take_now(share_of(request, request.app[CLIENTS])) as is_free:
        if is_free:
            return await _respond_coded(request, download, all_headers, name)
    return await _respond_uncoded(request, download, all_headers)


async def _respond_coded(
    request: web.Request, download: Download, headers: dict[str, str], name: str
) -> web.StreamResponse:
    headers[hdrs.CONTENT_ENCODING] = name
    headers[hdrs.ETAG] = quoted(download.etag, name)
    condition = _respond_to_condition(request, headers)
    if condition is not None:
        return condition
    coding = request.app[SERVING].settings.coding
    coded = replace(
        download,
        size=None,
        pieces=lambda start, stop: coding.pieces(name, download.pieces(start, stop)),
        file=None,
        data=None,
    )
    return await _send(request, coded, DownloadResponse(headers=headers), None, coded=True)


async def _respond_uncoded(request: web.Request, download: Download, all_headers: dict[str, str]) -> web.StreamResponse:
    all_headers[hdrs.ETAG] = etag = quoted(download.etag, None)
    # Nix asks for the rest of a download that was cut only when the answer had this header.
    if download.size is not None or download.whole is not None:
        all_headers[hdrs.ACCEPT_RANGES] = "bytes"
    condition = _respond_to_condition(request, all_headers)
    if condition is not None:
        return condition
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
        data = at_hand(download, part.start, part.stop)
        if data is None:
            data = await request.app[TRANSFERS].read(download.pieces(part.start, part.stop))
        return web.Response(status=status, body=data, headers=all_headers)
    sized = DownloadResponse(status=status, headers=all_headers)
    sized.content_length = size
    return await _send(request, download, sized, part)


def _resumes(request: web.Request) -> bool:
    """Whether the client has the beginning. `If-Range` cannot hold: a growing file has a tag for each download."""
    return (
        request.method == hdrs.METH_GET
        and hdrs.IF_RANGE not in request.headers
        and has_beginning(request.headers.get(hdrs.RANGE))
    )


async def _send(
    request: web.Request,
    download: Download,
    response: DownloadResponse,
    part: ByteRange | None,
    *,
    coded: bool = False,
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
    answer_in(None)  # from now on bytes are sent, and that may take longer
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    start, stop = (part.start, part.stop) if part is not None else (0, None)
    transfers = request.app[TRANSFERS]
    metrics = transfers.metrics
    response.sending = sending = Sending(metrics.sent(kind_of(request.path, path_of(request))))
    try:
        pieces = download.pieces(start, stop)
        ends_with_connection = part is None and not chunked
        guard = reset_unless_finished(transport) if ends_with_connection else nullcontext()
        with metrics.in_flight.one_more(), guard:
            client = share_of(request, request.app[CLIENTS])
            await transfers.send(writer, transport, pieces, sending, client=client, chunked=chunked, coded=coded)
    except BaseException as error:
        # An answer that has begun can only be cut: after a clean end the client would take the part for the whole.
        transport.abort()
        metrics.aborted[_reason(error)].add()
        if isinstance(error, HarmoniaError):
            _log.error("%s: cut: %s", request.rel_url.raw_path, error)  # the message is the cause
        elif not isinstance(error, ConnectionError | asyncio.CancelledError):
            _log.exception("%s: cut: unforeseen", request.rel_url.raw_path)
        # Also in place of a CancelledError, which comes when the server ends: nothing else runs in this task.
        raise ResponseAborted(response.status, sending) from error
    return response


def _reason(error: BaseException) -> str:
    if isinstance(error, HarmoniaError):
        return SOURCE
    if isinstance(error, asyncio.CancelledError):
        return SHUTDOWN
    return CLIENT if isinstance(error, ConnectionError) else FAULT


def _respond_to_condition(request: web.Request, headers: Headers) -> web.Response | None:
    """412 or 304 where the request has a condition on `ETag`: RFC 9110, section 13.2.2; None to go on."""
    etag = headers.get(hdrs.ETAG)
    conditions = request.headers.getall(hdrs.IF_MATCH, [])
    if conditions and not any(if_match_holds(header, etag or "") for header in conditions):
        return error_response(HTTPStatus.PRECONDITION_FAILED)
    had = request.headers.getall(hdrs.IF_NONE_MATCH, [])
    if etag is not None and any(matches(header, etag) for header in had):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=_not_modified(headers))
    return None


def _requested_range(request: web.Request, quoted: str, size: int) -> ByteRange | None:
    # RFC 9110, section 14.2: a range is defined for GET alone.
    if request.method != hdrs.METH_GET or not if_range_holds(request.headers.get(hdrs.IF_RANGE), quoted):
        return None
    return parse_range(request.headers.get(hdrs.RANGE), size)


def _not_modified(headers: Headers) -> dict[str, str]:
    """The headers that a 304 repeats: RFC 9110, section 15.4.5."""
    kept = (hdrs.ETAG, hdrs.CACHE_CONTROL, hdrs.VARY)
    return {name: headers[name] for name in kept if name in headers}
