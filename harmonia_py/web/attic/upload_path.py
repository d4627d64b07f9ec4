"""`PUT /_api/v1/upload-path`: a path of Attic's client, its NAR as it is behind a description of it.

The description is a header, or, where that would be too long, the beginning of the body. The NAR is checked and
compressed while it arrives; then the path is published as one that `nix copy` pushes, or waits for its references:
the client sends paths in any order.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web
from msgspec import Struct

from harmonia_py.cache.access import Action
from harmonia_py.catalog.nars import NarFile
from harmonia_py.errors import FormatError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.push.claims import claim_of
from harmonia_py.push.publishing import PushOrder
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.receiving import PushSession
from harmonia_py.web.admission.limits import answer_in
from harmonia_py.web.attic.admission import check_may_push, find_cache, parse_name
from harmonia_py.web.attic.answers import bad_request, json_answer
from harmonia_py.web.attic.bodies import NarDescription, decode
from harmonia_py.web.attic.get_missing_paths import RUN
from harmonia_py.web.http import upload
from harmonia_py.web.state import PRINCIPAL, pushes_of

NAR_INFO: Final = "X-Attic-Nar-Info"
PREAMBLE_SIZE: Final = "X-Attic-Nar-Info-Preamble-Size"
# `max-nar-info-size` of Attic: a path with ten thousand references.
_MAX_PREAMBLE: Final = 1024 * 1024
# A file may have to be read once more before it is published.
_PUBLISH_SECONDS: Final = 240.0


async def put(request: web.Request) -> web.StreamResponse:
    """Take a path in. The answer comes when it is durable, and published or waiting for its references."""
    body = _Body(upload.pieces(request))
    description = await _description(request, body)
    cache = await find_cache(request, parse_name(description.cache), Action.PUSH)
    pushes, store_dir = pushes_of(request, cache), cache.cache.cache_info.store_dir
    try:
        with pushes.counting_refusals():
            info = description.path_info(store_dir)
            await pushes.check_room(info.nar_size)
            session = await pushes.session(request[PRINCIPAL], RUN)
            taken = await _take(pushes, session, info, body.rest(), store_dir)
    except FormatError as error:
        raise bad_request(str(error)) from None
    kind = "Deduplicated" if taken.was_there else "Uploaded"
    return json_answer({"kind": kind, "file_size": taken.file.file_size, "frac_deduplicated": None})


class _Taken(Struct, frozen=True):
    """The file of a path, and whether the cache had its NAR before."""

    file: NarFile
    was_there: bool


async def _take(
    pushes: Pushes, session: PushSession, info: PathInfo, pieces: AsyncIterator[bytes], store_dir: StoreDir
) -> _Taken:
    before = await pushes.sessions.missing(session, (), [info.nar_hash])
    file = await pushes.receive_nar(session, info, pieces)
    answer_in(_PUBLISH_SECONDS)
    claim = claim_of(info, file).format(store_dir)
    await pushes.publish(session, info.store_path.hash_part, claim, PushOrder.ANNOUNCED)
    return _Taken(file, info.nar_hash in before.nars)


async def _description(request: web.Request, body: "_Body") -> NarDescription:
    """The description of the path, from the client.

    Raises:
        Refusal: it says nothing, or nothing that can be read; or the principal may push nothing.
    """
    size = request.headers.get(PREAMBLE_SIZE)
    if size is None:
        text = request.headers.get(NAR_INFO)
        if text is None:
            raise bad_request(f"{NAR_INFO} must be set")
        return decode(text.encode("utf-8", "surrogateescape"), NarDescription)
    if not size.isascii() or not size.isdecimal() or len(size) > len(str(_MAX_PREAMBLE)):
        raise bad_request(f"{PREAMBLE_SIZE} must be a valid unsigned integer")
    if int(size) > _MAX_PREAMBLE:
        raise bad_request("Upload info is too large")
    check_may_push(request)
    return await asyncio.to_thread(decode, await body.take(int(size)), NarDescription)


class _Body:
    """The body of a request: a beginning of known length, and the rest."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._begun = b""

    async def take(self, size: int) -> bytes:
        """The first `size` bytes.

        Raises:
            Refusal: there are fewer.
        """
        data = bytearray()
        while len(data) < size:
            piece = await anext(self._pieces, b"")
            if not piece:
                raise bad_request("Upload info doesn't match specified size")
            data += piece
        self._begun = bytes(data[size:])
        return bytes(data[:size])

    async def rest(self) -> AsyncIterator[bytes]:
        """The bytes that follow."""
        if self._begun:
            yield self._begun
        async for piece in self._pieces:
            yield piece
