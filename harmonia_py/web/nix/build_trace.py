"""`/build-trace-v2/<derivation>/<output>.doi`: realisations, as Nix from 2.35 on asks for them."""

from http import HTTPStatus

from aiohttp import web

from harmonia_py.errors import FormatError
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import StorePath
from harmonia_py.web.http.errors import error_response
from harmonia_py.web.nix import realisation


async def get(request: web.Request) -> web.StreamResponse:
    """The realisation of an output, in JSON; 400 when there can be no such output."""
    try:
        output = DrvOutput.of(StorePath.parse(request.match_info["derivation"]), request.match_info["output"])
    except FormatError:
        return error_response(HTTPStatus.BAD_REQUEST)
    return await realisation.answer(request, output, Realisation.format_new)
