"""`/api/sessions…`: a push of many paths. One question for all of them, claims in batches; its files are in `files`."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from harmonia_py.cache.access import Action
from harmonia_py.catalog.pins import PinName
from harmonia_py.catalog.uploads import SESSION_SECONDS
from harmonia_py.contents.codecs import COMPRESSIONS
from harmonia_py.errors import FormatError, NotPermitted, PushConflict, PushRefused
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push.parts import MAX_PART_BYTES
from harmonia_py.push.publishing import PushOrder
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.receiving import MAX_NAR_SIZE, PushSession
from harmonia_py.push.sessions import MAX_ASKED
from harmonia_py.web.api.capabilities import PUSH_VERSION, describe_cache, json_response
from harmonia_py.web.api.chunks import describe as describe_chunks
from harmonia_py.web.api.session_request import no_longer_than, push_of, read_json
from harmonia_py.web.state import CACHE, PRINCIPAL, administration_of, pushes_of

MAX_PUBLISHED: Final = 1000
"""Narinfos in one request."""
MAX_PINS: Final = 100
"""Set at the end of one push: each is a transaction of its own."""
# Hash parts and NarHashes, `MAX_ASKED` of each; narinfos, of which the longest have a thousand references.
_MAX_QUESTION: Final = 8 * 1024 * 1024
_MAX_CLAIMS: Final = 16 * 1024 * 1024

# Checks of headers, before the client is told to send the body.
check_question = no_longer_than(_MAX_QUESTION)
check_claims = no_longer_than(_MAX_CLAIMS)


class Question(msgspec.Struct, frozen=True):
    """The body of a question to `missing`: hash parts of paths, and NarHashes of which a file may be here."""

    paths: list[str] = []
    nars: list[str] = []


class Claims(msgspec.Struct, frozen=True):
    """Narinfos to publish, in this order: references first."""

    narinfos: list[str]


class PinAtEnd(msgspec.Struct, frozen=True):
    """A pin to set, by its name, and the base name of the path that it leads to."""

    name: str
    path: str


class End(msgspec.Struct, frozen=True):
    """The hash parts that must be published for the session to end, and the pins that are set then."""

    roots: list[str] = []
    pins: list[PinAtEnd] = []


async def post(request: web.Request) -> web.StreamResponse:
    """Begin a session: its id, for how long it is a lease, and what this cache takes."""
    pushes = pushes_of(request)
    session = await pushes.sessions.begin(request[PRINCIPAL])
    past = pushes.past_server
    in_parts = None if past is None else past.sizes_in_parts
    body = {
        "session": session.id,
        "lease_seconds": SESSION_SECONDS,
        "version": PUSH_VERSION,
        "cache": describe_cache(request),
        "actions": sorted(action for action in Action if request[PRINCIPAL].may(action, request[CACHE].name)),
        "looks_through": _looks_through(request),
        "compressions": sorted(COMPRESSIONS),
        "max_nar_size": MAX_NAR_SIZE,
        "max_part_size": MAX_PART_BYTES,
        "max_paths": MAX_ASKED,
        "max_narinfos": MAX_PUBLISHED,
        "chunks": describe_chunks(request),
        "uploads": None
        if past is None
        else {**_sizes(past.sizes), "parts": None if in_parts is None else _sizes(in_parts)},
    }
    return json_response(body)


def _sizes(sizes: range) -> dict[str, Any]:
    return {"min_size": sizes.start, "max_size": sizes.stop - 1}


def _looks_through(request: web.Request) -> Sequence[str]:
    """Names of the further places that the cache has paths from: clients leave these paths out."""
    administration = administration_of(request)
    if administration is None:
        return ()
    settings = administration.row.settings
    return [*(["the local store"] if settings.local_store else []), *settings.caches, *settings.upstreams]


async def get(request: web.Request) -> web.StreamResponse:
    """The progress of a session; the question is a sign of life."""
    pushes, session = await push_of(request)
    progress = await pushes.sessions.progress(session)
    return json_response({"session": session.id, "lease_seconds": SESSION_SECONDS, **msgspec.structs.asdict(progress)})


async def delete(request: web.Request) -> web.StreamResponse:
    """Give a session up."""
    pushes, session = await push_of(request)
    await pushes.end(session)
    return json_response({})


async def missing(request: web.Request) -> web.StreamResponse:
    """The paths and NARs that have to be sent."""
    pushes, session = await push_of(request)
    question = await read_json(request, Question, _MAX_QUESTION)
    if max(len(question.paths), len(question.nars)) > MAX_ASKED:
        raise PushRefused(f"more than {MAX_ASKED} paths in one question")
    hash_parts, nar_hashes = await asyncio.to_thread(_parse_question, question)
    found = await pushes.sessions.missing(session, hash_parts, nar_hashes)
    body = {
        "missing": found.missing,
        "elsewhere": sorted(found.elsewhere),
        "nars": {str(nar_hash): str(file) for nar_hash, file in found.nars.items()},
    }
    return json_response(body)


def _parse_question(question: Question) -> tuple[Sequence[HashPart], Sequence[Hash]]:
    return (
        list(dict.fromkeys(map(HashPart.parse, question.paths))),
        [Hash.parse(text, "sha256") for text in question.nars],
    )


async def publish(request: web.Request) -> web.StreamResponse:
    """Publish paths, or let them wait for references; what became of each, in the order of the claims."""
    pushes, session = await push_of(request)
    claims = await read_json(request, Claims, _MAX_CLAIMS)
    if len(claims.narinfos) > MAX_PUBLISHED:
        raise PushRefused(f"more than {MAX_PUBLISHED} narinfos at once")
    return json_response({"paths": [await _publish(pushes, session, narinfo) for narinfo in claims.narinfos]})


async def _publish(pushes: Pushes, session: PushSession, narinfo: str) -> Mapping[str, Any]:
    """The result of one claim: a refused one does not stop the others."""
    name = ""
    try:
        first_line = narinfo.partition("\n")[0]
        name = first_line.removeprefix("StorePath: ").rpartition("/")[2]
        published = await pushes.publish(session, HashPart.parse(name[:32]), narinfo.encode(), PushOrder.ANY)
    except PushConflict as error:
        return {"path": name, "state": "absent", "reason": str(error)}
    except (FormatError, PushRefused) as error:
        pushes.note_refusal()
        return {"path": name, "state": "refused", "reason": str(error)}
    body: dict[str, Any] = {"path": name, "state": published.state.value}
    if published.missing:
        body["missing"] = sorted(published.missing)
    if published.first is not None:
        body["first"] = str(published.first)
    return body


async def finish(request: web.Request) -> web.StreamResponse:
    """End a session whose roots are all published, with pins that keep them; those that are not.

    The pins are set while the leases of the session keep what they lead to. Setting one takes the permission `pin`.
    """
    pushes, session = await push_of(request)
    end = await read_json(request, End, _MAX_QUESTION)
    if len(end.pins) > MAX_PINS:
        raise PushRefused(f"more than {MAX_PINS} pins at the end of one push")
    roots = await asyncio.to_thread(lambda: [HashPart.parse(text) for text in end.roots])
    pins = [(PinName.parse(pin.name), StorePath.parse(pin.path)) for pin in end.pins]
    if pins and not request[PRINCIPAL].may(Action.PIN, request[CACHE].name):
        raise NotPermitted(
            f"the token may push to {request[CACHE].name}, and not set pins in it: that is `--allow pin`"
        )
    # The path that a pin is to lead to is leased as well: it may have been asked for in another session.
    pinned = (await pushes.sessions.missing(session, [path.hash_part for _, path in pins], ())).missing
    missing = sorted({*pinned, *await pushes.sessions.unpublished(session, roots)})
    if missing:
        return json_response({"missing": missing})
    for name, path in pins:
        await _set_pin(request, name, path)
    await pushes.end(session)
    return json_response({"missing": [], "pins": [name for name, _ in pins]})


async def _set_pin(request: web.Request, name: PinName, path: StorePath) -> None:
    administration = administration_of(request)
    assert administration is not None, "what takes pushes is in the catalog"
    await administration.pins.set(
        administration.row.id, name, path, set_by=request[PRINCIPAL].name, now=administration.now()
    )
