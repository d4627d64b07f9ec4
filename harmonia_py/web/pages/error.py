"""Errors as pages, for browsers: what the status means, and what to do. Every other client gets the one line of text.

A page says no more than the line, so it is the same for things that are there and for those that are not.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

from aiohttp import hdrs, web

from harmonia_py.web.admission.address import host_of
from harmonia_py.web.http.errors import Handler, is_writing
from harmonia_py.web.http.weights import weights
from harmonia_py.web.pages.templates import headers, render
from harmonia_py.web.state import TRANSFERS

_HTML: Final = "text/html"
_TEXT: Final = "text/plain"


class Words(NamedTuple):
    """The words for a status: its meaning here, and the remedy."""

    meaning: str
    advice: str


_TELL: Final = "If it happens again, tell the administrator of this cache the time and the URL."
WORDS: Final[Mapping[HTTPStatus, Words]] = {
    HTTPStatus.BAD_REQUEST: Words(
        "The server cannot make out what was asked for.", "Look at the URL: a part of it is not well formed."
    ),
    HTTPStatus.UNAUTHORIZED: Words(
        "Only a client with a token may read here, and only such a client learns whether anything is here.",
        "Give the token as the password, with any user name. Nix takes it from the file that netrc-file in nix.conf "
        "names.",
    ),
    HTTPStatus.FORBIDDEN: Words(
        "The token that came with the request does not allow this.",
        "Ask the administrator of this cache for one that does.",
    ),
    HTTPStatus.NOT_FOUND: Words(
        "There is nothing under this URL: this cache does not have the store path, or the URL has a mistake in it.",
        "That is no fault of the cache: Nix goes on with the next one, or builds the path itself.",
    ),
    HTTPStatus.PRECONDITION_FAILED: Words(
        "What is here is not what the request was meant for.", "Load the page again, or ask without the condition."
    ),
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: Words(
        "The file ends before the part that was asked for.", "Begin the download from the start."
    ),
    HTTPStatus.TOO_MANY_REQUESTS: Words(
        "More requests came from this address than one client may make.", "Wait a moment."
    ),
    HTTPStatus.INTERNAL_SERVER_ERROR: Words("The server has failed to answer; its log says why.", _TELL),
    HTTPStatus.BAD_GATEWAY: Words("What this cache asks in its turn has answered nothing that can be used.", _TELL),
    HTTPStatus.SERVICE_UNAVAILABLE: Words(
        "The server cannot answer now: it has too much to do, or something that it needs is not there.", _TELL
    ),
}
# For a status that only a program can meet, since no browser sends such a request.
_OTHER: Final = Words("The server does not do what was asked for.", "Look at the URL, and at the request.")


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give a browser the page of an error in the place of its line. Status and other headers stay what they are."""
    response = await handler(request)
    if (
        isinstance(response, web.Response)
        and response.status >= HTTPStatus.BAD_REQUEST
        and response.content_type == _TEXT
        and not response.prepared
        and not is_writing(request)
        and prefers_page(request.headers.get(hdrs.ACCEPT, ""))
    ):
        page = await _page(request, response)
        response.body = page
        response.headers.update({name: value for name, value in headers().items() if name != hdrs.CACHE_CONTROL})
    return response


def prefers_page(accept: str) -> bool:
    """Whether a client with this `Accept` wants a page rather than text: it must name `text/html` itself."""
    wanted = weights(accept)
    html = wanted.get(_HTML, 0.0)
    return html > 0 and html >= wanted.get(_TEXT, 0.0)


async def _page(request: web.Request, response: web.Response) -> bytes:
    status = HTTPStatus(response.status)
    words = WORDS.get(status, _OTHER)
    line = (response.text or "").strip()
    values = {
        # The home of the server, and of no cache: there may be none of the name in the URL.
        "root": "../" * (request.rel_url.raw_path.count("/") - 1) or "./",
        "site": host_of(request),
        "status": status,
        "meaning": words.meaning,
        "advice": words.advice,
        "message": None if line == status.phrase else line,
        "seconds": response.headers.get(hdrs.RETRY_AFTER),
    }
    return await request.app[TRANSFERS].threads.run(lambda: render("error.html", **values))
