"""`/push/…` and `/push/<run>/…`: the questions of clients before they push, and the files that they push."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import hdrs, web
from msgspec import Struct

from harmonia_py.cache.tree import BuildId
from harmonia_py.errors import FormatError, PushRefused
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.realisation import MAX_REALISATION_SIZE, DrvOutput
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push.claims import MAX_NARINFO_SIZE, PushedFile
from harmonia_py.push.documents import MAX_LOG_SIZE
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.receiving import MAX_FILE_SIZE, PushSession, check_compression
from harmonia_py.push.texts import decode
from harmonia_py.push.urls import PushKind, PushUrl
from harmonia_py.web.admission.limits import answer_in
from harmonia_py.web.http import upload
from harmonia_py.web.http.body import Headers, respond
from harmonia_py.web.http.errors import Handler, not_found
from harmonia_py.web.http.redirects import is_elsewhere
from harmonia_py.web.nix import build_trace, debuginfo, listing, log, nar, narinfo, realisation
from harmonia_py.web.ops import about
from harmonia_py.web.state import PRINCIPAL, WAITS_WITH_BODY, cache_of, pushes_of

# The limit of documents that are read and dropped: listings of clients have a hundred megabytes at most.
_MAX_FORGOTTEN: Final = 256 * 1024 * 1024
_MAX_CACHE_INFO: Final = 4096
# Nix gives an answer up 300 seconds after the body, and its second attempt may be broken.
_PUBLISH_SECONDS: Final = 240.0

_Put = Callable[[web.Request, PushUrl, Pushes, PushSession], Awaitable[None]]


class Way(Struct, frozen=True):
    """How a kind of file comes in, and is read before it does.

    Attributes:
        most: bytes of a body.
        put: takes one in.
        read: the handler of the cache itself.
        parameters: that this takes from the URL.
    """

    most: int
    put: _Put
    read: Handler
    parameters: tuple[str, ...] = ()


async def check_body(request: web.Request) -> None:
    """Refuse or redirect a PUT by its header, before the client is told to send the body.

    Raises:
        FormatError: nothing is pushed under this URL.
        PushRefused: it is too large, or nothing is pushed to this cache.
        QuotaExceeded: the cache is full.
        web.HTTPTemporaryRedirect: the client is to send the body to the bucket.
    """
    url, pushes = _url_of(request), pushes_of(request)
    if url.kind is not PushKind.NAR:
        upload.announced_bytes(request, WAYS[url.kind].most)
        return
    file, size = PushedFile.parse(url.name), upload.announced_bytes(request, MAX_FILE_SIZE)
    check_compression(file)
    await pushes.check_room(size, file)
    # Only a client that waits can send the body somewhere else: old ones cannot begin it again.
    if WAITS_WITH_BODY in request and pushes.past_server is not None:
        session = await pushes.session(request[PRINCIPAL], url.run)
        elsewhere = await pushes.past_server.url(session, file, size)
        if elsewhere is not None and is_elsewhere(request, elsewhere):
            raise web.HTTPTemporaryRedirect(elsewhere)


async def put(request: web.Request) -> web.StreamResponse:
    """Take a file in. The answer is 200 once it is durable and visible to the clients that may see it."""
    url, pushes = _url_of(request), pushes_of(request)
    session = await pushes.session(request[PRINCIPAL], url.run)
    with pushes.counting_refusals():
        take_in = _put_nar if url.kind is PushKind.NAR else WAYS[url.kind].put
        await take_in(request, url, pushes, session)
    return web.Response(text="OK\n", headers={hdrs.CACHE_CONTROL: "no-store"})


async def get(request: web.Request) -> web.StreamResponse:
    """Answer a client that is about to push, also from objects that are not published yet.

    An object that is found stays until the push has ended.
    """
    url, pushes = _url_of(request), pushes_of(request)
    if url.kind is PushKind.NAR:
        return await _get_nar(request, url, pushes)
    if url.kind is PushKind.NARINFO:
        session = await pushes.session(request[PRINCIPAL], url.run)
        if await pushes.narinfo(session, HashPart.parse(url.name)) is None:
            return not_found()
    # From here on the request is answered as one to the cache itself.
    way = WAYS[url.kind]
    request.match_info.update(zip(way.parameters, url.name.split("^", len(way.parameters) - 1), strict=False))
    return await way.read(request)


async def _get_nar(request: web.Request, url: PushUrl, pushes: Pushes) -> web.StreamResponse:
    try:
        file = PushedFile.parse(url.name)
    except FormatError:
        # The name of the file as the narinfos of this cache have it.
        request.match_info["file_name"] = url.name
        return await nar.get(request)
    session = await pushes.session(request[PRINCIPAL], url.run)
    download = await pushes.open(session, file)
    if download is None:
        return not_found()
    headers: Headers = {hdrs.CONTENT_TYPE: nar.CONTENT_TYPES.get(file.compression, nar.DEFAULT_CONTENT_TYPE)}
    return await respond(request, download, headers, coded=False)


async def _put_cache_info(request: web.Request, _url: PushUrl, _pushes: Pushes, _session: PushSession) -> None:
    """Accept a `nix-cache-info` with the store directory of this cache; its other fields are ignored."""
    ours = cache_of(request).cache_info.store_dir
    theirs = CacheInfo.parse(await upload.read(request, _MAX_CACHE_INFO), ours).store_dir
    if theirs != ours:
        raise PushRefused(f"StoreDir: this cache is for {ours}, not {theirs}")


async def _put_narinfo(request: web.Request, url: PushUrl, pushes: Pushes, session: PushSession) -> None:
    hash_part = HashPart.parse(url.name)
    data = await _read_decoded(request, MAX_NARINFO_SIZE)
    # A file may have to be read once more, or to be added to the local store.
    answer_in(_PUBLISH_SECONDS)
    await pushes.publish(session, hash_part, data)


async def _put_nar(request: web.Request, url: PushUrl, pushes: Pushes, session: PushSession) -> None:
    size = upload.announced_bytes(request, MAX_FILE_SIZE)
    await pushes.receive(session, PushedFile.parse(url.name), size, upload.pieces(request))


async def _forget(request: web.Request, url: PushUrl, _pushes: Pushes, _session: PushSession) -> None:
    """Read a listing, or an index of debug information, and drop it: this cache makes its own from the NARs."""
    if url.kind is PushKind.LISTING:
        HashPart.parse(url.name)
    else:
        BuildId.parse(url.name.removesuffix(".debug"))
    async for _ in upload.pieces(request):
        pass


async def _put_log(request: web.Request, url: PushUrl, pushes: Pushes, session: PushSession) -> None:
    # Nix sends the name as it is: a question mark in it makes the rest of the name a query string.
    query = request.rel_url.raw_query_string
    derivation = StorePath.parse(f"{url.name}?{query}" if query else url.name)
    coding = request.headers.get(hdrs.CONTENT_ENCODING)
    await pushes.documents.log(session, derivation, upload.pieces(request), coding)


async def _put_realisation(request: web.Request, url: PushUrl, pushes: Pushes, session: PushSession) -> None:
    data = await _read_decoded(request, MAX_REALISATION_SIZE)
    await pushes.documents.realisation(session, DrvOutput.parse(url.name), data)


async def _put_build_trace(request: web.Request, url: PushUrl, pushes: Pushes, session: PushSession) -> None:
    derivation, _, output = url.name.partition("^")
    data = await _read_decoded(request, MAX_REALISATION_SIZE)
    await pushes.documents.realisation(session, DrvOutput.of(StorePath.parse(derivation), output), data)


# A NAR is not here: it has bounds and a check of its own (`check_body`), and may be read by another name (`_get_nar`).
WAYS: Final[Mapping[PushKind, Way]] = {
    PushKind.CACHE_INFO: Way(_MAX_CACHE_INFO, _put_cache_info, about.get_cache_info),
    PushKind.NARINFO: Way(MAX_NARINFO_SIZE, _put_narinfo, narinfo.get, ("hash_part",)),
    PushKind.LISTING: Way(_MAX_FORGOTTEN, _forget, listing.get, ("hash_part",)),
    PushKind.LOG: Way(MAX_LOG_SIZE, _put_log, log.get, ("derivation",)),
    PushKind.DEBUG_FILE: Way(_MAX_FORGOTTEN, _forget, debuginfo.get, ("build_id",)),
    PushKind.REALISATION: Way(MAX_REALISATION_SIZE, _put_realisation, realisation.get, ("output",)),
    PushKind.BUILD_TRACE: Way(MAX_REALISATION_SIZE, _put_build_trace, build_trace.get, ("derivation", "output")),
}


async def _read_decoded(request: web.Request, most: int) -> bytes:
    """The body, without the coding that settings like `narinfo-compression` give it."""
    data = await upload.read(request, most)
    coding = request.headers.get(hdrs.CONTENT_ENCODING)
    if not coding:
        return data
    return decode(data, coding, most)


def _url_of(request: web.Request) -> PushUrl:
    return PushUrl.parse(request.match_info["place"])
