"""Answers as Attic's client reads them: JSON, and errors of the form `{"code": …, "error": …, "message": …}`.

Source: `server/src/error.rs` of Attic.
"""

from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from harmonia_py.errors import PushRefused
from harmonia_py.web.http.errors import Handler
from harmonia_py.web.state import SERVING

PREFIX: Final = "/_api/"
CACHE_INFO: Final = "/attic-cache-info"
"""The suffix of a cache's URL under which Attic's client asks for its settings."""
_TEXT: Final = "text/plain"
_NAMES: Final = {
    HTTPStatus.BAD_REQUEST: "RequestError",
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.FORBIDDEN: "AccessError",
    HTTPStatus.NOT_FOUND: "NotFound",
    HTTPStatus.SERVICE_UNAVAILABLE: "Unavailable",
}


class Refusal(Exception):  # an answer rather than an error
    """The answer to a request that is refused, by the name that Attic has for it."""

    def __init__(self, status: HTTPStatus, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


def no_such_cache() -> Refusal:
    """The cache is not there, and the client may know that."""
    return Refusal(HTTPStatus.NOT_FOUND, "NoSuchCache", "The requested cache does not exist.")


def bad_request(message: str) -> Refusal:
    """The request is not as it should be."""
    return Refusal(HTTPStatus.BAD_REQUEST, "RequestError", f"General request error: {message}")


def json_answer(body: Any) -> web.Response:
    """An answer that is right at this moment."""
    headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(body=msgspec.json.encode(body, enc_hook=str), headers=headers)


def empty_answer() -> web.Response:
    """200 and no more: a change was made."""
    return web.Response(headers={hdrs.CACHE_CONTROL: "no-store"})


def answering(handler: Handler) -> Handler:
    """`handler` where Attic's API is switched on, with its refusals as answers."""

    async def answered(request: web.Request) -> web.StreamResponse:
        if request.app[SERVING].settings.attic is None:
            text = "Attic's API is not switched on here: see [attic] enabled."
            return _shaped(web.Response(status=HTTPStatus.NOT_FOUND, text=text), None)
        try:
            return await handler(request)
        except Refusal as refusal:
            return _shaped(web.Response(status=refusal.status, text=str(refusal)), refusal.error)
        except PushRefused as error:
            if type(error) is not PushRefused:
                raise
            # 422 is unknown to Attic's client and server alike.
            return _shaped(web.Response(status=HTTPStatus.BAD_REQUEST, text=str(bad_request(str(error)))), None)

    return answered


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the other errors of requests that Attic's client makes the form in which it prints them."""
    response = await handler(request)
    if (
        (request.path.startswith(PREFIX) or request.path.endswith(CACHE_INFO))
        and isinstance(response, web.Response)
        and response.status >= HTTPStatus.BAD_REQUEST
        and response.content_type == _TEXT
        and not response.prepared
    ):
        return _shaped(response, None)
    return response


def _shaped(response: web.Response, error: str | None) -> web.Response:
    status = HTTPStatus(response.status)
    other = "InternalServerError" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "RequestError"
    message = (response.text or "").strip() or status.phrase
    response.body = msgspec.json.encode(
        {"code": status.value, "error": error or _NAMES.get(status, other), "message": message}
    )
    response.headers[hdrs.CONTENT_TYPE] = "application/json"
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response
