"""Narinfos that are not ready, answered without the framework.

Most of what clients ask a cache for is not there, and most of the rest they ask for once: parsing the request, routing
it and building the response would be half the work of these answers.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from harmonia_py.web import narinfo
from harmonia_py.web.errors import response_to
from harmonia_py.web.hot_answers import AskedNarinfo
from harmonia_py.web.state import Serving
from harmonia_py.web.transfer import Transfers

Lane = Callable[[AskedNarinfo], Awaitable[tuple[HTTPStatus, bytes]]]
"""Finds the whole answer to what was asked. It never raises: an error is an answer, too."""


def narinfo_lane(serving: Serving, transfers: Transfers) -> Lane:
    """The lane of one worker."""

    async def answer(asked: AskedNarinfo) -> tuple[HTTPStatus, bytes]:
        try:
            response = await narinfo.answer(serving, transfers, asked.hash_part, asked.wanted)
        except Exception as error:  # noqa: BLE001  # as for every request: the client learns nothing of it
            response = response_to(error, f"GET /{asked.hash_part}.narinfo")
        return HTTPStatus(response.status), serving.answers.write(response)

    return answer
