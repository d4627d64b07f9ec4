"""`/path/<hash part>`: everything there is to know of a store path."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.explore import Closure
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.web.address import url_of
from harmonia_py.web.contents import Node, read_contents
from harmonia_py.web.errors import not_found
from harmonia_py.web.pages import respond_page
from harmonia_py.web.state import TRANSFERS, cache_of

# Some paths are referred to by everything in the store.
MAX_SHOWN: Final = 100
# Some twenty thousand files. Decoding it holds up every other request of this worker for some ten milliseconds.
_MAX_LISTING_BYTES: Final = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Some:
    """The first ones of many paths."""

    paths: tuple[StorePath, ...]
    count: int


async def get(request: web.Request) -> web.StreamResponse:
    """The page of a valid store path; 404 for any other."""
    hash_part = HashPart.parse(request.match_info["hash_part"])
    cache = cache_of(request)
    narinfo = await cache.narinfo(hash_part)
    if narinfo is None:
        return not_found()
    info = narinfo.path_info
    referrers, closure = await _surroundings(cache, info.store_path)
    contents = await _contents(request, cache, hash_part)
    values = {
        "narinfo": narinfo,
        "info": info,
        "full_path": cache.cache_info.store_dir.join(info.store_path),
        "url": url_of(request),
        "registered": _date(info.registration_time),
        "references": _some(tuple(path for path in info.references if path != info.store_path)),
        "refers_to_itself": info.store_path in info.references,
        "referrers": None if referrers is None else _some(referrers),
        "closure": closure,
        "deriver_is_here": info.deriver is not None and await _is_here(cache, info.deriver),
        "log_of": await _log_of(cache, info),
        "our_keys": {key.name for key in cache.public_keys},
        "contents": contents,
        "serve": f"serve/{hash_part}/" if cache.shows_files else None,
    }
    return await respond_page(request, "path.html", values)


async def _surroundings(
    cache: BinaryCache, store_path: StorePath
) -> tuple[tuple[StorePath, ...] | None, Closure | None]:
    if cache.explorer is None:
        return None, None
    return await cache.explorer.referrers(store_path), await cache.explorer.closure(store_path)


async def _contents(request: web.Request, cache: BinaryCache, hash_part: HashPart) -> Node | None:
    """The tree, unless there is none to be had or it is too large to be shown."""
    download = await cache.listing(hash_part)
    if download is None:
        return None
    with download:
        if download.size is None or download.size > _MAX_LISTING_BYTES or download.redirect is not None:
            return None
        transfers = request.app[TRANSFERS]
        listing = await transfers.read(download.pieces(0, download.size))
    return await transfers.in_thread(lambda: read_contents(listing))


async def _is_here(cache: BinaryCache, store_path: StorePath) -> bool:
    narinfo = await cache.narinfo(store_path.hash_part)
    return narinfo is not None and narinfo.path_info.store_path == store_path


async def _log_of(cache: BinaryCache, info: PathInfo) -> StorePath | None:
    """The derivation whose build log there is: of a path its deriver, of a derivation itself."""
    derivation = info.store_path if info.store_path.is_derivation else info.deriver
    download = None if derivation is None else await cache.log(derivation)
    if download is None:
        return None
    download.release()
    return derivation


def _some(paths: tuple[StorePath, ...]) -> Some:
    return Some(paths[:MAX_SHOWN], len(paths))


def _date(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (OverflowError, OSError, ValueError):  # a time that only a broken store can have
        return None
