"""Exceptions as statuses, in one table; the client learns the status and nothing else."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web

from harmonia_py import errors

_log = logging.getLogger(__name__)

# A client that waits this long asks again at a good moment: a daemon restarts within a second or two.
RETRY_AFTER_SECONDS: Final = 2

# The first class in an exception's ancestry that stands here decides. FormatError: a client's URL does not parse, so
# what it names is not here; adapters turn the garbage of others into errors of their own before it gets this far.
STATUSES: Final[dict[type[BaseException], HTTPStatus]] = {
    errors.FormatError: HTTPStatus.NOT_FOUND,
    errors.ConfigError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.DaemonUnreachable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DaemonProtocolError: HTTPStatus.BAD_GATEWAY,
    errors.DaemonRefused: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.UpstreamUnreachable: HTTPStatus.BAD_GATEWAY,
    errors.UpstreamProtocolError: HTTPStatus.BAD_GATEWAY,
    errors.UpstreamUntrusted: HTTPStatus.NOT_FOUND,
    errors.StorageError: HTTPStatus.SERVICE_UNAVAILABLE,
    # 507 is for who wants to store something, and nobody can yet: a reader shall come back.
    errors.StorageFull: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StorePathChanged: HTTPStatus.INTERNAL_SERVER_ERROR,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status_of(error: BaseException) -> HTTPStatus:
    """The status for `error`; 500 for what nobody foresaw."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), HTTPStatus.INTERNAL_SERVER_ERROR)


def error_response(status: HTTPStatus) -> web.Response:
    """The whole of what a client is told: the status phrase, not to be stored."""
    headers = {"Cache-Control": "no-store"}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return web.Response(status=status, text=f"{status.phrase}\n", headers=headers)


def not_found() -> web.Response:
    """What is not here."""
    return error_response(HTTPStatus.NOT_FOUND)


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every exception by the table, and the framework's own errors in the same form."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        # Redirects and 405s of the router: keep what the status needs, drop the framework's words.
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        response = error_response(HTTPStatus(error.status))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, the client learns nothing and the log everything
        return response_to(error, f"{request.method} {request.rel_url.raw_path}")


def response_to(error: Exception, request: str) -> web.Response:
    """The answer to a request, named for the log, that ended with `error`."""
    status = status_of(error)
    if not isinstance(error, errors.HarmoniaError):
        _log.error("%s: unforeseen", request, exc_info=error)
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s: %s%s", request, error, _cause(error))
    return error_response(status)


def _cause(error: BaseException) -> str:
    return f" ({error.__cause__})" if error.__cause__ is not None else ""
