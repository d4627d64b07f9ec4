"""`/build-trace-v2/<derivation>/<output>.doi`: realisations, as Nix from 2.35 on asks for them."""

from http import HTTPStatus

from aiohttp import hdrs, web

from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.realisation import DrvOutput
from harmonia_py.nix.store_path import StorePath
from harmonia_py.web.http.body import Headers, respond_bytes
from harmonia_py.web.http.errors import error_response, not_found
from harmonia_py.web.state import cache_of


async def get(request: web.Request) -> web.StreamResponse:
    """The realisation of an output, in JSON; 400 when there can be no such output."""
    try:
        output = DrvOutput.of(StorePath.parse(request.match_info["derivation"]), request.match_info["output"])
    except FormatError:
        return error_response(HTTPStatus.BAD_REQUEST)
    realisation = await cache_of(request).realisation(output)
    if realisation is None:
        return not_found()
    data = realisation.format_new()
    # A realisation may be replaced by another one; a client that asks again after a minute sees it.
    headers: Headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "max-age=60"}
    return await respond_bytes(request, data, etag=Hash.of(data).nix32, headers=headers)
