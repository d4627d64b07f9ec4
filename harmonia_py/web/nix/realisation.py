"""`/realisations/<derivation output>.doi`: realisations, as Nix up to 2.34 asks for them."""

from collections.abc import Callable

from aiohttp import hdrs, web

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.web.http.body import Headers, respond_bytes
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.state import cache_of


async def get(request: web.Request) -> web.StreamResponse:
    """The realisation of `sha256:<hash modulo>!<output>`, with string signatures, which every version reads."""
    return await answer(request, DrvOutput.parse(request.match_info["output"]), Realisation.format_old)


async def answer(
    request: web.Request, output: DrvOutput, format_: Callable[[Realisation], bytes]
) -> web.StreamResponse:
    """The realisation of `output`, in one of its two forms."""
    realisation = await cache_of(request).realisation(output)
    if realisation is None:
        return not_found()
    data = format_(realisation)
    # A realisation may be replaced by another one; a client that asks again after a minute sees it.
    headers: Headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "max-age=60"}
    return await respond_bytes(request, data, etag=Hash.of(data).nix32, headers=headers)
