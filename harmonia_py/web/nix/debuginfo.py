"""`/debuginfo/<build id>[.debug]`: for dwarffs, nixseparatedebuginfod and debuggers behind them."""

import json

from aiohttp import hdrs, web

from harmonia_py.cache.tree import BuildId
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import SUFFIXES
from harmonia_py.web.http.body import Headers, respond_bytes
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.state import cache_of


async def get(request: web.Request) -> web.StreamResponse:
    """The NAR that has the debug information of a build, and its place in that NAR."""
    build_id = BuildId.parse(request.match_info["build_id"].removesuffix(".debug"))
    debug_file = await cache_of(request).debug_file(build_id)
    if debug_file is None:
        return not_found()
    # Relative to this URL, and without a query, because clients take the name for a file's.
    suffix = SUFFIXES[debug_file.compression]
    archive = f"../nar/{debug_file.store_path.hash_part}-{debug_file.nar_hash.nix32}.nar{suffix}"
    data = json.dumps({"archive": archive, "member": build_id.member}, separators=(",", ":")).encode()
    headers: Headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "max-age=3600"}
    return await respond_bytes(request, data, etag=Hash.of(data).nix32, headers=headers)
