"""Narinfos that are not ready, answered without the framework.

Most narinfos that clients ask for are not there, and most others are asked for once: parsing the request, routing it
and building the response would be half the work of these answers.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from harmonia_py.web.fast.ready_answers import NarinfoRequest
from harmonia_py.web.http.errors import response_to
from harmonia_py.web.http.transfer import Transfers
from harmonia_py.web.nix import narinfo
from harmonia_py.web.state import Serving

FindNarinfo = Callable[[NarinfoRequest], Awaitable[tuple[HTTPStatus, bytes]]]
"""Finds the status and the whole answer to a request. It never raises: an error is an answer, too."""


def narinfo_finder(serving: Serving, transfers: Transfers) -> FindNarinfo:
    """A function that answers requests for narinfos from the caches of `serving`."""

    async def answer(request: NarinfoRequest) -> tuple[HTTPStatus, bytes]:
        try:
            response = await narinfo.answer(serving, transfers, request)
        except Exception as error:  # noqa: BLE001  # as for every request: the client learns nothing of it
            response = response_to(error, f"GET /{request.target}")
        return HTTPStatus(response.status), serving.answers.write(response)

    return answer
