"""`/api/sessions/…/uploads`: the files of a push that go to the bucket itself, with one request or in parts."""

from contextlib import suppress
from typing import Final

import msgspec
from aiohttp import web

from harmonia_py.errors import FormatError, PushConflict, StorageError
from harmonia_py.push.past_server.of_cache import UploadsPastServer
from harmonia_py.push.past_server.parts import MAX_ETAG, MAX_PARTS, SentParts
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.receiving import MAX_FILE_SIZE, PushSession, check_compression
from harmonia_py.web.api.capabilities import json_response
from harmonia_py.web.api.files import MAX_SMALL, file_of, state
from harmonia_py.web.api.session_request import no_longer_than, number_in, push_of, read_json
from harmonia_py.web.http.redirects import is_elsewhere

# The tag of each part, in quotes and with a comma, and what names the upload.
_MAX_TAGS: Final = MAX_PARTS * (MAX_ETAG + 8) + MAX_SMALL

# Checks of headers, before the client is told to send the body.
check_parts = no_longer_than(_MAX_TAGS)


class Wanted(msgspec.Struct, frozen=True):
    """A file that is to be sent in parts: its length."""

    size: int


class Sent(msgspec.Struct, frozen=True):
    """A file whose parts have all been sent: its upload, and what the bucket has answered to each part."""

    upload: str
    etags: list[str]


async def get(request: web.Request) -> web.StreamResponse:
    """The URL to which the client sends a file of this size with one request; null: it sends the file here."""
    pushes, session = await push_of(request)
    file, size = file_of(request), number_in(request, "size", "say how long the file is: ?size=1")
    check_compression(file)
    await pushes.check_room(size, file)
    url = None
    if pushes.past_server is not None:
        with suppress(StorageError):  # it may still come here
            url = await pushes.past_server.url(session, file, size)
    return json_response({"url": url if url is not None and is_elsewhere(request, url) else None})


async def finish(request: web.Request) -> web.StreamResponse:
    """Take in a file that was sent there; `checking` when that takes a while, and the client asks again."""
    pushes, session = await push_of(request)
    with pushes.counting_refusals():
        file = file_of(request)
        # Where clients are not sent there any more, another server may have taken it.
        is_here = pushes.past_server is None and await pushes.file(session, file) is not None
        done = is_here or await _past_server_of(pushes).finish(session, file)
    return state(done=done)


async def begin_parts(request: web.Request) -> web.StreamResponse:
    """Begin to take in a file of this size in parts; null: it does not come in parts."""
    pushes, session = await push_of(request)
    wanted, past, sent = await read_json(request, Wanted, MAX_SMALL), pushes.past_server, None
    if not 0 <= wanted.size <= MAX_FILE_SIZE:
        raise FormatError(f"size: a file has up to {MAX_FILE_SIZE} bytes")
    if past is not None and is_elsewhere(request, past.place):
        with suppress(StorageError):  # it may still come in another way
            sent = await past.begin(session, file_of(request), wanted.size)
    if sent is None:
        return json_response({"upload": None})
    return json_response({"upload": sent.format(), "part_size": sent.part_size, "parts": sent.count})


async def part_urls(request: web.Request) -> web.StreamResponse:
    """The URLs of some parts of a file."""
    pushes, session = await push_of(request)
    past = _past_server_of(pushes)
    first = number_in(request, "first", "say which part is the first: ?first=1")
    count = number_in(request, "count", "say how many parts: ?count=10")
    sent = _sent(request, session)
    return json_response({"urls": past.multipart.urls(sent, first, count)})


async def finish_parts(request: web.Request) -> web.StreamResponse:
    """Take in a file whose parts are all there; `checking` when that takes a while, and the client asks again."""
    pushes, session = await push_of(request)
    sent, file, past = await read_json(request, Sent, _MAX_TAGS), file_of(request), _past_server_of(pushes)
    with pushes.counting_refusals():
        done = await past.finish(session, file, SentParts.parse(sent.upload, session, file), sent.etags)
    return state(done=done)


async def give_up_parts(request: web.Request) -> web.StreamResponse:
    """Remove what was sent of a file."""
    pushes, session = await push_of(request)
    past, sent = _past_server_of(pushes), _sent(request, session)
    await past.multipart.forget(sent)
    return json_response({})


def _past_server_of(pushes: Pushes) -> UploadsPastServer:
    if pushes.past_server is None:
        raise PushConflict("files of this cache are sent to this server")
    return pushes.past_server


def _sent(request: web.Request, session: PushSession) -> SentParts:
    return SentParts.parse(request.query.get("upload", ""), session, file_of(request))
