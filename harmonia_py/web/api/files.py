"""`/api/sessions/…/nars` and `…/parts`: the files of a push that come to this server, whole or in parts."""

from typing import Final

import msgspec
from aiohttp import web

from harmonia_py.push.claims import PushedFile
from harmonia_py.push.parts import MAX_PART_BYTES, PartName
from harmonia_py.push.receiving import MAX_FILE_SIZE, check_compression
from harmonia_py.web.api.capabilities import json_response
from harmonia_py.web.api.session_request import no_longer_than, number_in, push_of, read_json
from harmonia_py.web.http import upload
from harmonia_py.web.state import PRINCIPAL, pushes_of

MAX_SMALL: Final = 4096
"""Bytes of a body that describes one file."""

# Checks of headers, before the client is told to send the body.
check_whole = no_longer_than(MAX_SMALL)


class Whole(msgspec.Struct, frozen=True):
    """A file whose parts have all been sent: `<FileHash>.nar.zst`, and its length."""

    file: str
    size: int


async def check_nar_header(request: web.Request) -> None:
    """Check by the header that a file is wanted and has room.

    Raises:
        FormatError: it is not named like the file of a NAR.
        PushRefused: it is too large, or nothing is pushed to this cache.
        QuotaExceeded: the cache is full.
    """
    file = file_of(request)
    check_compression(file)
    await pushes_of(request).check_room(upload.announced_bytes(request, MAX_FILE_SIZE), file)


async def put_nar(request: web.Request) -> web.StreamResponse:
    """Take a file in, whole."""
    pushes, session = await push_of(request)
    size = upload.announced_bytes(request, MAX_FILE_SIZE)
    with pushes.counting_refusals():
        await pushes.receive(session, file_of(request), size, upload.pieces(request))
    return json_response({})


async def check_part(request: web.Request) -> None:
    """Check by the header that a part is wanted and has room.

    Raises:
        FormatError: it is not named like the file of a NAR, or does not say where it begins.
        PushRefused: it is too large, or nothing is pushed to this cache.
        QuotaExceeded: the cache is full.
    """
    check_compression(file_of(request))
    end = _offset_of(request) + upload.announced_bytes(request, MAX_PART_BYTES)
    await pushes_of(request).check_room_for_part(request[PRINCIPAL], _part_of(request), end)


async def get_part(request: web.Request) -> web.StreamResponse:
    """The number of bytes of a file that are here, where its next part begins."""
    pushes, session = await push_of(request)
    return json_response({"offset": await pushes.parts.size(session, _part_of(request))})


async def patch_part(request: web.Request) -> web.StreamResponse:
    """Add a part to a file; how much of it is here then. Nothing is wrong with sending a part twice."""
    pushes, session = await push_of(request)
    parts, offset = upload.pieces(request), _offset_of(request)
    return json_response({"offset": await pushes.parts.add(session, _part_of(request), offset, parts)})


async def finish_part(request: web.Request) -> web.StreamResponse:
    """Take a file in whose parts are all here; `checking` when that takes a while, and the client asks again."""
    pushes, session = await push_of(request)
    whole = await read_json(request, Whole, MAX_SMALL)
    file = PushedFile.parse(whole.file)
    with pushes.counting_refusals():
        done = await pushes.finish_parts(session, _part_of(request), file, whole.size)
    return state(done=done)


def state(*, done: bool) -> web.Response:
    """The answer that says whether a file is here, or still being checked."""
    return json_response({"state": "received" if done else "checking"})


def file_of(request: web.Request) -> PushedFile:
    """The file that the URL names.

    Raises:
        FormatError: it is not named like the file of a NAR.
    """
    return PushedFile.parse(request.match_info["file_name"])


def _part_of(request: web.Request) -> PartName:
    return PartName.parse(request.match_info["file_name"])


def _offset_of(request: web.Request) -> int:
    return number_in(request, "offset", "a part says where it begins: ?offset=0")
