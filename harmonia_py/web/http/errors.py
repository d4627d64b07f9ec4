"""Exceptions as statuses, in one table. A client that reads learns the status alone.

A client that writes also gets a line that says what to do, where the error has one: `nix copy` prints it. The gate does
so for both, when it does not let a request in: its words say what is wrong with the token.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, NamedTuple, Self

from aiohttp import hdrs, web

from harmonia_py import errors

_log = logging.getLogger(__name__)

# A client that waits this long asks again at a good moment: a daemon restarts within a second or two.
RETRY_AFTER_SECONDS: Final = 2
_CHALLENGE: Final = 'Basic realm="Nix binary cache", charset="UTF-8"'
# The statuses that make Nix try again: `filetransfer.cc`.
_LATER: Final = frozenset({408, 429, *range(500, 600)} - {501, 505, 511})
_NIX: Final = re.compile(r"\bNix/(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", re.ASCII)
_REPEATS_BODIES: Final = (2, 33, 2)


class Statuses(NamedTuple):
    """The status of an error for a client that reads, and for a client that writes."""

    reading: HTTPStatus
    writing: HTTPStatus

    @classmethod
    def of(cls, reading: int, writing: int | None = None) -> Self:
        """The statuses `reading` and `writing`; without the latter, `reading` for both."""
        return cls(HTTPStatus(reading), HTTPStatus(reading if writing is None else writing))


# The first class in an exception's ancestry that stands here decides. FormatError: a client's URL does not parse, so
# what it names is not here; adapters turn the garbage of others into errors of their own before it gets this far.
# Nix prints the answer to a PUT and stops at 4xx; 202 it takes for a failure, 303 for a GET, so neither is ever sent.
STATUSES: Final[dict[type[BaseException], Statuses]] = {
    errors.FormatError: Statuses.of(404, writing=400),
    errors.ConfigError: Statuses.of(500),
    errors.NotAuthenticated: Statuses.of(401),
    errors.NotPermitted: Statuses.of(403),
    # To a client that reads: nothing can be pushed here, so nothing is here.
    errors.PushRefused: Statuses.of(404, writing=422),
    errors.PushConflict: Statuses.of(409),
    errors.PushTooLarge: Statuses.of(413),
    errors.SessionEnded: Statuses.of(410),
    errors.LengthRequired: Statuses.of(411),
    # Not 507, which Nix takes for a trouble that passes: it would send the same bytes five times.
    errors.QuotaExceeded: Statuses.of(413),
    errors.DaemonUnreachable: Statuses.of(503),
    errors.DaemonProtocolError: Statuses.of(502),
    errors.DaemonRefused: Statuses.of(500),
    errors.UpstreamUnreachable: Statuses.of(502),
    errors.UpstreamProtocolError: Statuses.of(502),
    errors.UpstreamUntrusted: Statuses.of(404, writing=422),
    errors.StorageError: Statuses.of(503),
    errors.StorageFull: Statuses.of(503, writing=507),
    errors.CatalogError: Statuses.of(503),
    errors.Overloaded: Statuses.of(503),
    # 404, so that the client goes on with another cache; `store/damaged` logs it for the administrator.
    errors.StorePathChanged: Statuses.of(404, writing=409),
}
_FOR_CLIENTS: Final = (errors.FormatError, errors.AccessError, errors.PushRefused, errors.QuotaExceeded)
_READING: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})

CANNOT_TAKE_IT_NOW: Final = "This cache cannot take it now: run the same command again later"
# Of the answer to a PUT, Nix prints the first KiB.
_MAX_MESSAGE_LENGTH: Final = 500

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status_of(error: BaseException, *, writing: bool = False) -> HTTPStatus:
    """The status for `error`; 500 for an exception that is not in the table."""
    statuses = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)
    if statuses is None:
        return HTTPStatus.INTERNAL_SERVER_ERROR
    return statuses.writing if writing else statuses.reading


def error_response(status: HTTPStatus, message: str | None = None) -> web.Response:
    """The status and one line, not to be stored; without a message for the client the phrase of the status."""
    headers = {"Cache-Control": "no-store"}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    elif status is HTTPStatus.UNAUTHORIZED:
        headers[hdrs.WWW_AUTHENTICATE] = _CHALLENGE
    return web.Response(status=status, text=f"{_one_line(message) if message else status.phrase}\n", headers=headers)


def _one_line(message: str) -> str:
    """`message` without what could end its line or move a cursor: it may repeat what the client said."""
    return "".join(c if c.isprintable() else "?" for c in message[:_MAX_MESSAGE_LENGTH])


def not_found() -> web.Response:
    """404, for a URL under which there is nothing."""
    return error_response(HTTPStatus.NOT_FOUND)


def is_writing(request: web.BaseRequest) -> bool:
    """Whether `request` wants to change something."""
    return request.method not in _READING


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every exception by the table, and the framework's own errors in the same form."""
    response = await _answer(request, handler)
    if response.status >= HTTPStatus.BAD_REQUEST and not response.prepared and request.can_read_body:
        # The rest of a refused body is not read, so the next request on this connection could not be told from it.
        response.force_close()
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if request.method == hdrs.METH_OPTIONS and request.raw_path == "*":
            return web.Response(headers={hdrs.ALLOW: "GET,HEAD"})  # RFC 9110, section 9.3.7: about the server itself
        # Redirects and 405s of the router: keep what the status needs, drop the framework's words.
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        message = CANNOT_TAKE_IT_NOW if error.status in _LATER and is_writing(request) else None
        response = bearable(request, error_response(HTTPStatus(error.status), message))
        if hdrs.ALLOW in error.headers:
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return response
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001  # of any exception the client learns nothing, and the log everything
        name = f"{request.method} {request.rel_url.raw_path}"
        return bearable(request, response_to(error, name, writing=is_writing(request)))


def response_to(error: Exception, request: str, *, writing: bool = False) -> web.Response:
    """The answer to a request, named for the log, that ended with `error`."""
    status = status_of(error, writing=writing)
    if not isinstance(error, errors.HarmoniaError):
        _log.error("%s: unforeseen", request, exc_info=error)
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s: %s%s", request, error, _cause(error))
    if not writing:
        return error_response(status)
    return error_response(status, str(error) if isinstance(error, _FOR_CLIENTS) else CANNOT_TAKE_IT_NOW)


def bearable(request: web.BaseRequest, response: web.Response) -> web.Response:
    """`response`, or 409 in its place for a client that would answer it with a broken second attempt.

    A status that says "later" makes Nix send the request again; up to 2.33.1 it then announces the body and does not
    send it, and hangs (NixOS/nix#15047). 409 ends its command at once, and prints what to do.
    """
    if not is_writing(request) or response.status not in _LATER or can_repeat_body(request):
        return response
    return error_response(HTTPStatus.CONFLICT, CANNOT_TAKE_IT_NOW)


def can_repeat_body(request: web.BaseRequest) -> bool:
    """Whether the client would send all of the body when it sends the request again: Nix does from 2.33.2 on."""
    if not request.body_exists:
        return True
    agent = request.headers.get(hdrs.USER_AGENT, "")
    version = _NIX.search(agent)
    if version is None:
        return "Lix/" not in agent
    return tuple(int(number or 0) for number in version.groups()) >= _REPEATS_BODIES


def _cause(error: BaseException) -> str:
    return f" ({error.__cause__})" if error.__cause__ is not None else ""
