"""Logs and listings as files that a mirror fetches."""

from collections.abc import Awaitable, Callable
from typing import Final

from harmonia_py.contents.codecs import memory_of
from harmonia_py.contents.document_check import DocumentCheck
from harmonia_py.contents.file_check import FileCheck
from harmonia_py.contents.incoming import Lane
from harmonia_py.errors import UpstreamError, UpstreamProtocolError
from harmonia_py.mirror.mirror_metrics import MirrorCounters
from harmonia_py.mirror.upstream import Body, Resume, Upstream
from harmonia_py.mirror.upstream_file import UpstreamFile
from harmonia_py.mirror.upstreams import Upstreams

_ENCODINGS: Final = {None: "none", "br": "br", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd", "xz": "xz"}


class DocumentDownload(UpstreamFile):
    """A log or a listing: it has no claim to be held against, and any upstream's is good.

    Caches keep them encoded, and send them so to every client: cache.nixos.org with brotli. Here they are kept decoded,
    and `web/http/coding` encodes them for clients that accept it.
    """

    room = 0  # not known beforehand

    def __init__(
        self,
        lane: Lane,
        counters: MirrorCounters,
        upstreams: Upstreams,
        url: str,
        arrived: Callable[[int], Awaitable[None]],
    ) -> None:
        super().__init__(lane, counters)
        self._arrived = arrived
        self._check = DocumentCheck("none")
        self._upstreams = upstreams
        self._url = url
        self._chosen: Upstream | None = None
        self._compression = "none"

    def __str__(self) -> str:
        return self._url

    def check(self) -> FileCheck:
        """The check of its length and its encoding."""
        self._check = DocumentCheck(self._compression, self._share)
        return self._check

    async def kept(self) -> None:
        """Have the mirror enter it."""
        await super().kept()
        await self._arrived(self._check.size)

    @property
    def _memory(self) -> int:
        return memory_of(self._compression, None)

    def _agreed_size(self, body: Body) -> int | None:
        return body.size if self._compression == "none" else None

    def _blame(self, error: UpstreamError) -> None:
        """Blame no upstream: a document has no claim that could be wrong."""

    async def _open(self, resume: Resume | None) -> Body | None:
        if self._chosen is not None:
            return await self._chosen.open(self._url, resume)
        answer = await self._upstreams.ask(
            lambda upstream: upstream.open(self._url), lambda body: body.close(), is_of_file=True
        )
        if answer is None:
            return None
        body = answer.value
        self._chosen = answer.upstream
        self._compression = _ENCODINGS.get(body.encoding, "")
        if not self._compression:
            body.close()
            raise UpstreamProtocolError(f"it sent a document with the Content-Encoding {body.encoding}")
        return body
