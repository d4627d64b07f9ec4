"""`/<hash part>.narinfo`."""

import hashlib
import json
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.cache.found import Found
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.web.fast.ready_answers import NarinfoRequest
from harmonia_py.web.http.body import Headers, encode, quoted, respond_bytes, select_coding, selected_by
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.http.transfer import Transfers
from harmonia_py.web.state import CACHE, SERVING, Serving

CONTENT_TYPE: Final = "text/x-nix-narinfo"
CACHE_CONTROL: Final = "max-age=86400"


async def get(request: web.Request) -> web.StreamResponse:
    """The narinfo of a store path; 404 when it is not here or the hash part is none."""
    hash_part = HashPart.parse(request.match_info["hash_part"])
    named = request[CACHE]
    found = await named.cache.narinfo(hash_part)
    if found is None:
        return not_found()
    store_dir = named.cache.cache_info.store_dir
    if "json" in request.query:
        return await _respond_json(request, found, store_dir)
    data, etag, headers = _represent(found, store_dir)
    response = await respond_bytes(request, data, etag=etag, headers=headers)
    if response.status == HTTPStatus.OK and request.method == hdrs.METH_GET and not request.query_string:
        target = request.rel_url.raw_path[1:]
        request.app[SERVING].remember(named, target, selected_by(request), response, found.validity)
    return response


async def answer(serving: Serving, transfers: Transfers, request: NarinfoRequest) -> web.Response:
    """The answer of `get` to a plain GET that may read the cache, without the framework's request."""
    cache = request.cache.cache
    found = await cache.narinfo(request.hash_part)
    if found is None:
        return not_found()
    data, etag, headers = _represent(found, cache.cache_info.store_dir)
    name = select_coding(serving.settings, headers, len(data), request.coding)
    headers[hdrs.ETAG] = quoted(etag, name)
    response = web.Response(body=await encode(serving.settings, transfers, data, name), headers=headers)
    serving.remember(request.cache, request.target, request.coding, response, found.validity)
    return response


def _represent(found: Found, store_dir: StoreDir) -> tuple[bytes, str, dict[str, str]]:
    """The text, its validator without quotes, and its headers."""
    data = found.narinfo.format(store_dir)
    headers: dict[str, str] = {
        hdrs.CONTENT_TYPE: CONTENT_TYPE,
        hdrs.CACHE_CONTROL: CACHE_CONTROL,
        "Nix-Link": found.narinfo.url,
        "X-Harmonia-Source": found.origin.label,
    }
    return data, hashlib.sha256(data).hexdigest()[:32], headers


async def _respond_json(request: web.Request, found: Found, store_dir: StoreDir) -> web.Response:
    """The facts of the narinfo for programs that are not Nix, which never asks for them."""
    data = json.dumps(found.narinfo.to_json(store_dir), ensure_ascii=False, separators=(",", ":")).encode()
    headers: Headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: CACHE_CONTROL}
    return await respond_bytes(request, data, etag=Hash.of(data).nix32, headers=headers)
