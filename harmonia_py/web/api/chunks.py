"""`/api/sessions/…/chunks` and `…/recipes`: NARs of which a client sends those chunks alone that the cache lacks.

Both take the permission `read` as well: what is told is what a reader could find out by downloading.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from harmonia_py.cache.access import Action
from harmonia_py.catalog.bases import MAX_BASES
from harmonia_py.catalog.nars import NarFile
from harmonia_py.chunks.recipe import HASH_BYTES, ChunkHash
from harmonia_py.chunks.sizes import CUT, SIZES
from harmonia_py.errors import FormatError, NotPermitted, PushRefused
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart, parse_name
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.recipe_body import MAX_RECIPE_BYTES, MAX_SENT_BYTES
from harmonia_py.push.recipes import MAX_ASKED_CHUNKS, MAX_ASKED_NAMES, RecipeUploads
from harmonia_py.web.api.capabilities import json_response
from harmonia_py.web.api.session_request import no_longer_than, number_in, push_of, read_json
from harmonia_py.web.http import upload
from harmonia_py.web.state import CACHE, PRINCIPAL, pushes_of

# A hash takes 67 bytes of JSON, a name up to 214.
_MAX_QUESTION: Final = 1024 * 1024
_MAX_NAMES: Final = 64 * 1024

# Checks of headers, before the client is told to send the body.
check_names = no_longer_than(_MAX_NAMES)
check_question = no_longer_than(_MAX_QUESTION)


class Names(msgspec.Struct, frozen=True):
    """Names of the paths whose bases are asked for: what stands behind the hash part."""

    names: list[str]


class Question(msgspec.Struct, frozen=True):
    """Chunks, each by the digits of its SHA-256 in base 16, and hash parts of bases that may have them."""

    chunks: list[str]
    bases: list[str]


def describe(request: web.Request) -> dict[str, Any] | None:
    """The way in which this cache cuts NARs, for a client that may know its chunks; None where it may not."""
    if pushes_of(request).recipes is None or not _may_read(request):
        return None
    return {
        "cut": CUT,
        "sizes": msgspec.structs.asdict(SIZES),
        "max_chunks": MAX_ASKED_CHUNKS,
        "max_names": MAX_ASKED_NAMES,
        "max_recipe_size": MAX_RECIPE_BYTES,
        "max_sent_size": MAX_SENT_BYTES,
    }


async def check_recipe(request: web.Request) -> None:
    """Check by the header that a recipe, and the chunks before it, are not too long, and have room.

    Raises:
        FormatError: it does not say how long the chunks are, or which paths have the others.
        PushRefused: it is too large, or nothing is pushed to this cache.
        QuotaExceeded: the cache is full.
    """
    sent, _ = _sent_of(request), _bases_of(request)
    if sent > MAX_SENT_BYTES:
        raise PushRefused(f"{MAX_SENT_BYTES} bytes of chunks are taken at the most: send the NAR whole")
    upload.announced_bytes(request, sent + MAX_RECIPE_BYTES)
    await pushes_of(request).check_room(sent)


async def bases(request: web.Request) -> web.StreamResponse:
    """Paths of the cache that others are likely to share chunks with. They stay until the session ends."""
    _, session = await push_of(request)
    asked = (await read_json(request, Names, _MAX_NAMES)).names
    if len(asked) > MAX_ASKED_NAMES:
        raise PushRefused(f"more than {MAX_ASKED_NAMES} names in one question")
    names = list(dict.fromkeys(map(parse_name, asked)))
    return json_response({"bases": await _recipes_of(request).bases(session, names)})


async def missing(request: web.Request) -> web.StreamResponse:
    """The chunks that none of the bases has."""
    await push_of(request)
    question = await read_json(request, Question, _MAX_QUESTION)
    if len(question.chunks) > MAX_ASKED_CHUNKS:
        raise PushRefused(f"more than {MAX_ASKED_CHUNKS} chunks in one question")
    chunks, hash_parts = await asyncio.to_thread(_parse_question, question)
    found = await _recipes_of(request).missing(chunks, hash_parts)
    return json_response({"missing": [chunk.hex() for chunk in found]})


async def post_recipe(request: web.Request) -> web.StreamResponse:
    """Make the file of a NAR and take it in; `making` when that takes a while, and the client asks by GET."""
    pushes, session = await push_of(request)
    recipes, nar_hash = _recipes_of(request), _nar_hash_of(request)
    with pushes.counting_refusals():
        body = upload.pieces(request)
        file = await recipes.receive(session, nar_hash, _sent_of(request), body, _bases_of(request))
    return _state(file)


async def get_recipe(request: web.Request) -> web.StreamResponse:
    """Whether the file of a NAR has been made."""
    _, session = await push_of(request)
    return _state(await _recipes_of(request).made(session, _nar_hash_of(request)))


def _state(file: NarFile | None) -> web.Response:
    if file is None:
        return json_response({"state": "making"})
    name = PushedFile(file.file_hash, file.compression)
    return json_response({"state": "received", "file": str(name), "size": file.file_size})


def _recipes_of(request: web.Request) -> RecipeUploads:
    recipes = pushes_of(request).recipes
    if recipes is None:
        raise PushRefused("this cache takes no recipes: send NARs whole")
    if not _may_read(request):
        raise NotPermitted("the token may push, and not read: without that NARs are sent whole")
    return recipes


def _may_read(request: web.Request) -> bool:
    return request[CACHE].allows(request[PRINCIPAL], Action.READ)


def _parse_question(question: Question) -> tuple[Sequence[ChunkHash], Sequence[HashPart]]:
    return list(map(_chunk_hash, question.chunks)), _bases(question.bases)


def _chunk_hash(text: str) -> ChunkHash:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != HASH_BYTES or len(text) != 2 * HASH_BYTES:  # white space counts for nothing in base 16
        raise FormatError("a chunk is named by the 64 digits of its SHA-256 in base 16")
    return ChunkHash(digest)


def _bases(texts: Sequence[str]) -> Sequence[HashPart]:
    if len(texts) > MAX_BASES:
        raise PushRefused(f"more than {MAX_BASES} bases of one path")
    return list(map(HashPart.parse, texts))


def _bases_of(request: web.Request) -> Sequence[HashPart]:
    return _bases(request.query.getall("base", []))


def _sent_of(request: web.Request) -> int:
    return number_in(request, "sent", "a recipe says how many bytes of chunks come before it: ?sent=0")


def _nar_hash_of(request: web.Request) -> Hash:
    return Hash.parse(f"sha256:{request.match_info['nar_hash']}", "sha256")
