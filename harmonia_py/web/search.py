"""`/search`: store paths by hash part or name."""

from typing import Final

from aiohttp import web

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.explore import Found
from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import HASH_PART_LENGTH, HashPart, StoreDir
from harmonia_py.web.pages import respond_page, root_of
from harmonia_py.web.state import cache_of

# More than a person reads; who has so many results says more.
MAX_RESULTS: Final = 100
_MAX_QUERY_LENGTH: Final = 256


async def get(request: web.Request) -> web.StreamResponse:
    """The paths that match; a store path or a whole hash part leads straight to its page."""
    cache = cache_of(request)
    typed = request.query.get("q", "").strip()[:_MAX_QUERY_LENGTH]
    query = _essence(typed, cache.cache_info.store_dir)
    hash_part = _hash_part(query)
    if hash_part is not None and await cache.narinfo(hash_part) is not None:
        raise web.HTTPFound(f"{root_of(request)}path/{hash_part}", headers={"Cache-Control": "private, no-cache"})
    found = await _search(cache, query)
    values = {"query": typed, "found": found, "has_store": cache.explorer is not None, "limit": MAX_RESULTS}
    return await respond_page(request, "search.html", values)


async def _search(cache: BinaryCache, query: str) -> Found:
    if cache.explorer is None or not query:
        return Found((), more=False)
    return await cache.explorer.search(query, MAX_RESULTS)


def _essence(typed: str, store_dir: StoreDir) -> str:
    """What was meant: people paste full paths, also of files inside a store path, and names of narinfos."""
    if typed.startswith(f"{store_dir}/"):
        return typed.removeprefix(f"{store_dir}/").partition("/")[0]
    return typed.removesuffix(".narinfo").removesuffix(".ls")


def _hash_part(query: str) -> HashPart | None:
    if query[HASH_PART_LENGTH : HASH_PART_LENGTH + 1] not in ("", "-"):
        return None
    try:
        return HashPart.parse(query[:HASH_PART_LENGTH])
    except FormatError:
        return None
