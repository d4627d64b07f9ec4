"""`/path/<hash part>`: everything there is to know of a store path."""

import shlex
from collections import OrderedDict
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web
from msgspec import Struct

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.explore import Closure, Explorer
from harmonia_py.cache.source import DocumentKind
from harmonia_py.catalog.pins import DAY
from harmonia_py.catalog.standing import Standing
from harmonia_py.errors import FormatError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.web.admission.address import url_of
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.pages.client_command import realise
from harmonia_py.web.pages.directory import Node, read_contents
from harmonia_py.web.pages.templates import date_of, respond_page
from harmonia_py.web.standing import standing_of
from harmonia_py.web.state import CACHE, TRANSFERS, cache_of

# Some paths are referred to by everything in the store.
MAX_SHOWN: Final = 100
# Some twenty thousand files. Decoding it holds up every other request of this worker for some ten milliseconds.
_MAX_LISTING_BYTES: Final = 2 * 1024 * 1024

# Trees that were shown last, of some hundred KiB each: one of twenty thousand files takes forty milliseconds to make.
_MAX_TREES: Final = 32
TREES = web.AppKey("trees", OrderedDict[str, Node])


class Some(Struct, frozen=True):
    """The first ones of many paths."""

    paths: tuple[StorePath, ...]
    count: int


async def get(request: web.Request) -> web.StreamResponse:
    """The page of a valid store path; 404 for any other, with a reason when it is one whose files are damaged."""
    hash_part = HashPart.parse(request.match_info["hash_part"])
    cache = cache_of(request)
    found = await cache.narinfo(hash_part)
    if found is None:
        return await _respond_damaged(request, hash_part) if await cache.is_damaged(hash_part) else not_found()
    info = found.narinfo.path_info
    referrers, closure = await _surroundings(request[CACHE].explorer, info.store_path)
    contents = await _contents(request, cache, hash_part)
    keys = [str(key) for key in request[CACHE].keys_for_clients]
    full_path = str(cache.cache_info.store_dir.join(info.store_path))
    values = {
        "narinfo": found.narinfo,
        "info": info,
        "full_path": full_path,
        "realise": realise(shlex.quote(full_path), url_of(request), keys),
        "registered": date_of(info.registration_time),
        "references": _some(tuple(path for path in info.references if path != info.store_path)),
        "refers_to_itself": info.store_path in info.references,
        "referrers": None if referrers is None else _some(referrers),
        "kept": _kept(await standing_of(request, hash_part)),
        "closure": closure,
        "deriver_is_here": info.deriver is not None and await _is_here(cache, info.deriver),
        "log_of": await _log_of(cache, info),
        "our_keys": {key.name for key in cache.public_keys},
        "contents": contents,
        "serve": f"serve/{hash_part}/" if cache.shows_files else None,
    }
    return await respond_page(request, "path.html", values)


def _kept(standing: Standing | None) -> dict[str, Any] | None:
    """What the page says of the standing of a pushed path; None for any other, and for one that has just gone."""
    if standing is None or standing.stored is None:
        return None
    unused, until = standing.cache.settings.keep_unused, standing.used_until
    return {
        "reason": standing.reason,
        "chain": standing.chain,
        "pins": () if standing.keepers is None else standing.keepers.pins,
        "referrers": standing.referrers,
        "used": date_of(standing.stored.used),
        "unused_days": None if unused is None else f"{unused / DAY:g}",
        "used_until": None if until is None else date_of(until),
        "has_max_size": standing.cache.settings.max_size is not None,
        "is_known": standing.is_known,
    }


async def _respond_damaged(request: web.Request, hash_part: HashPart) -> web.Response:
    response = await respond_page(request, "damaged.html", {"hash_part": hash_part})
    response.set_status(HTTPStatus.NOT_FOUND)
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


async def _surroundings(
    explorer: Explorer | None, store_path: StorePath
) -> tuple[tuple[StorePath, ...] | None, Closure | None]:
    if explorer is None:
        return None, None
    return await explorer.referrers(store_path), await explorer.closure(store_path)


async def _contents(request: web.Request, cache: BinaryCache, hash_part: HashPart) -> Node | None:
    """The tree, unless there is none to be had, or it is too large to be shown, or no listing."""
    download = await cache.document(DocumentKind.LISTING, hash_part)
    if download is None:
        return None
    trees = request.app[TREES]
    known = trees.get(download.etag)
    if known is not None:
        download.release()
        trees.move_to_end(download.etag)
        return known
    with download:
        if download.made is not None:
            download = await download.made()
    if download is None:
        return None
    with download:
        if download.size is None or download.size > _MAX_LISTING_BYTES:
            return None
        transfers = request.app[TRANSFERS]
        listing = await transfers.read(download.pieces(0, download.size))
    try:
        tree = trees[download.etag] = await transfers.threads.run(read_contents, listing)
    except FormatError:
        return None  # an upstream's listing, which nothing vouches for
    if len(trees) > _MAX_TREES:
        trees.popitem(last=False)
    return tree


async def _is_here(cache: BinaryCache, store_path: StorePath) -> bool:
    found = await cache.narinfo(store_path.hash_part)
    return found is not None and found.narinfo.path_info.store_path == store_path


async def _log_of(cache: BinaryCache, info: PathInfo) -> StorePath | None:
    """The derivation whose build log the page shows: the deriver of the path, or the path, if it is a derivation."""
    derivation = info.store_path if info.store_path.is_derivation else info.deriver
    download = None if derivation is None else await cache.document(DocumentKind.LOG, derivation)
    if download is None:
        return None
    download.release()
    return derivation


def _some(paths: tuple[StorePath, ...]) -> Some:
    return Some(paths[:MAX_SHOWN], len(paths))
