"""`/<hash part>.narinfo`."""

import hashlib
import json
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.cache.origin import origin_of
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.web.body import Headers, encode, quoted, respond_bytes, select_coding, selected_by
from harmonia_py.web.errors import not_found
from harmonia_py.web.state import SERVING, Serving, cache_of
from harmonia_py.web.transfer import Transfers

CONTENT_TYPE: Final = "text/x-nix-narinfo"
CACHE_CONTROL: Final = "max-age=86400"


async def get(request: web.Request) -> web.StreamResponse:
    """The narinfo of a store path; 404 when it is not here or the hash part is none."""
    hash_part = HashPart.parse(request.match_info["hash_part"])
    cache = cache_of(request)
    narinfo, lasting = await cache.lasting_narinfo(hash_part)
    if narinfo is None:
        return not_found()
    store_dir = cache.cache_info.store_dir
    if "json" in request.query:
        return await _respond_json(request, narinfo, store_dir)
    data, etag, headers = _represent(narinfo, store_dir)
    response = await respond_bytes(request, data, etag=etag, headers=headers)
    if response.status == HTTPStatus.OK and request.method == hdrs.METH_GET and not request.query_string:
        target = f"{hash_part}.narinfo"
        request.app[SERVING].remember(cache, target, selected_by(request), response, lasting)
    return response


async def answer(serving: Serving, transfers: Transfers, hash_part: HashPart, wanted: str | None) -> web.Response:
    """The same for a plain GET of a client that would have the coding `wanted`, without the framework's request."""
    cache = serving.cache
    narinfo, lasting = await cache.lasting_narinfo(hash_part)
    if narinfo is None:
        return not_found()
    data, etag, headers = _represent(narinfo, cache.cache_info.store_dir)
    name = select_coding(serving.rules, headers, len(data), wanted)
    headers[hdrs.ETAG] = quoted(etag, name)
    response = web.Response(body=await encode(serving.rules, transfers, data, name), headers=headers)
    serving.remember(cache, f"{hash_part}.narinfo", wanted, response, lasting)
    return response


def _represent(narinfo: NarInfo, store_dir: StoreDir) -> tuple[bytes, str, dict[str, str]]:
    """The text, its validator without quotes, and its headers."""
    data = narinfo.format(store_dir)
    headers: dict[str, str] = {
        hdrs.CONTENT_TYPE: CONTENT_TYPE,
        hdrs.CACHE_CONTROL: CACHE_CONTROL,
        "Nix-Link": narinfo.url,
        "X-Harmonia-Source": origin_of(narinfo),
    }
    return data, hashlib.sha256(data).hexdigest()[:32], headers


async def _respond_json(request: web.Request, narinfo: NarInfo, store_dir: StoreDir) -> web.Response:
    """The same facts for programs that are not Nix, which never asks for them."""
    data = json.dumps(narinfo.to_json(store_dir), ensure_ascii=False, separators=(",", ":")).encode()
    headers: Headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: CACHE_CONTROL}
    return await respond_bytes(request, data, etag=Hash.of(data).nix32, headers=headers)
