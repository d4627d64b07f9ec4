"""`/search`: store paths by hash part or name."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final
from urllib.parse import quote

from aiohttp import web
from msgspec import Struct

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.explore import Explorer, Matches
from harmonia_py.errors import FormatError, HarmoniaError
from harmonia_py.nix.store_path import HASH_PART_LENGTH, HashPart, StoreDir, StorePath
from harmonia_py.web.pages.templates import date_of, respond_page
from harmonia_py.web.state import CACHE, cache_of, root_of

# On one page.
MAX_RESULTS: Final = 50
# The last page that is shown: after so many, people make their search narrower.
MAX_PAGES: Final = 20
# A fact about a result that is not known by then is left out: a store that is slow holds up no page.
_DETAILS_SECONDS: Final = 1.0
_MAX_QUERY_LENGTH: Final = 256


async def get(request: web.Request) -> web.StreamResponse:
    """The paths that match; a store path or a whole hash part leads straight to its page."""
    cache, explorer = cache_of(request), request[CACHE].explorer
    typed = request.query.get("q", "").strip()[:_MAX_QUERY_LENGTH]
    query = _essence(typed, cache.cache_info.store_dir)
    hash_part = _hash_part(query)
    if hash_part is not None and await cache.narinfo(hash_part) is not None:
        raise web.HTTPFound(f"{root_of(request)}path/{hash_part}", headers={"Cache-Control": "private, no-cache"})
    page = _page(request.query.get("page", "1"))
    found = await _search(explorer, query, page * MAX_RESULTS)
    shown = found.paths[(page - 1) * MAX_RESULTS :]
    values = {
        "query": typed,
        "results": await _results(cache, shown),
        "first": (page - 1) * MAX_RESULTS + 1,
        "previous": _link(typed, page - 1) if page > 1 else None,
        "next": _link(typed, page + 1) if found.more and shown and page < MAX_PAGES else None,
        "more": found.more,
        "has_store": explorer is not None,
    }
    return await respond_page(request, "search.html", values)


class Result(Struct, frozen=True):
    """A store path that was found, with its NarSize in bytes and the time since which it is valid; None for unknown."""

    path: StorePath
    nar_size: int | None = None
    registered: datetime | None = None


def _page(text: str) -> int:
    """The number of the page; 1 for a text that is no such number."""
    return int(text) if text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= MAX_PAGES else 1


def _link(typed: str, page: int) -> str:
    return f"?q={quote(typed, safe='')}" + (f"&page={page}" if page > 1 else "")


async def _search(explorer: Explorer | None, query: str, limit: int) -> Matches:
    if explorer is None or not query:
        return Matches((), more=False)
    return await explorer.search(query, limit)


async def _results(cache: BinaryCache, paths: Sequence[StorePath]) -> list[Result]:
    """The results for `paths`. The store is asked for one after the other, so that narinfos find the daemon free."""
    results: list[Result] = []
    with suppress(TimeoutError, HarmoniaError):
        async with asyncio.timeout(_DETAILS_SECONDS):
            for path in paths:
                found = await cache.narinfo(path.hash_part)
                info = None if found is None else found.narinfo.path_info
                if info is None or info.store_path != path:
                    results.append(Result(path))
                else:
                    results.append(Result(path, info.nar_size, date_of(info.registration_time)))
    return results + [Result(path) for path in paths[len(results) :]]


def _essence(typed: str, store_dir: StoreDir) -> str:
    """The name or hash part in the query: people paste full paths, also of files in a store path, and narinfo names."""
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
