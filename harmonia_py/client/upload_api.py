"""The part of the push API for files that a client sends past the server, to where that keeps them."""

from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import urlencode

import msgspec

from harmonia_py.client.answers import SessionInfo, UploadInParts, fields
from harmonia_py.client.cache_requests import CacheRequests
from harmonia_py.client.http import Answer, parse_url
from harmonia_py.errors import UpstreamProtocolError


class UploadApi(CacheRequests):
    """The uploads of one cache."""

    async def url(self, session: SessionInfo, file: str, size: int) -> str | None:
        """The URL for a file of so many bytes past the server, by one PUT; None when it is sent to the server.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        place = self._place(session, f"uploads/{file}?size={size}")
        answer = await self._server.ask("GET", place, absent=True)
        if answer.status != HTTPStatus.OK:  # while servers are upgraded one by one, one of the release before is asked
            return None
        url = fields(answer.json()).get("url")
        return url if isinstance(url, str) and self._may_lead_to(url) else None

    async def begin_parts(self, session: SessionInfo, file: str, size: int) -> UploadInParts | None:
        """Begin to send a file of so many bytes past the server in parts; None when it is not sent in parts.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        place = self._place(session, f"uploads/{file}/parts")
        answer = await self._server.ask("POST", place, msgspec.json.encode({"size": size}), absent=True)
        told = fields(answer.json()) if answer.status == HTTPStatus.OK else {}  # as for `url`
        upload, part_size = told.get("upload"), told.get("part_size")
        if not isinstance(upload, str) or not isinstance(part_size, int) or part_size < 1:
            return None
        return UploadInParts(upload, part_size, place)

    async def part_urls(self, upload: UploadInParts, first: int, count: int) -> Sequence[str]:
        """The URLs of parts from `first` on, which is counted from 1: `count` of them, or those that there are.

        Raises:
            UpstreamProtocolError: the server names none, or one where no file may be sent.
            HarmoniaError: as `HttpServer.ask`.
        """
        query = urlencode({"upload": upload.id, "first": first, "count": count})
        answer = await self._server.ask("GET", f"{upload.place}?{query}")
        urls = fields(answer.json()).get("urls")
        if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
            raise UpstreamProtocolError("the server does not say where parts are sent")
        if not all(map(self._may_lead_to, urls)):
            raise UpstreamProtocolError("the server wants parts to be sent in the clear, or to what is no URL")
        return urls

    async def finish_parts(self, upload: UploadInParts, etags: Sequence[str]) -> bool:
        """Have the server take in a file whose parts were all sent; False while that is checked: ask again.

        Raises:
            PushConflict: it is not there.
            HarmoniaError: as `HttpServer.ask`.
        """
        body = msgspec.json.encode({"upload": upload.id, "etags": etags})
        return _is_checked(await self._server.ask("PUT", upload.place, body, absent=True))

    async def give_up_parts(self, upload: UploadInParts) -> None:
        """Have the server remove what was sent of a file.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        await self._server.once("DELETE", f"{upload.place}?{urlencode({'upload': upload.id})}")

    def _may_lead_to(self, url: str) -> bool:
        """Whether files may be sent there: not in the clear where the server itself is spoken to in secret."""
        try:
            there = parse_url(url)
        except UpstreamProtocolError:
            return False
        return bool(there.host) and there.scheme in {"https", self._server.url.scheme}

    async def finish(self, session: SessionInfo, file: str) -> bool:
        """Have the server take in a file that was sent past it; False while that is checked: ask again.

        Raises:
            PushConflict: it is not there.
            HarmoniaError: as `HttpServer.ask`.
        """
        return _is_checked(await self._server.ask("POST", self._place(session, f"uploads/{file}"), absent=True))


def _is_checked(answer: Answer) -> bool:
    # As for `url`; another server is asked next.
    return answer.status == HTTPStatus.OK and fields(answer.json()).get("state") != "checking"
