"""`/pin/<name>`: set and remove a pin. The permission is `pin`; pages and `?json` read them (`web/pages/pins`)."""

from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from aiohttp import web

from harmonia_py import json_text
from harmonia_py.catalog.administration import CacheAdministration
from harmonia_py.catalog.pins import DAY, PinName, PinRuleChange
from harmonia_py.errors import FormatError, PushRefused
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.web.api.capabilities import json_line
from harmonia_py.web.http import upload
from harmonia_py.web.http.errors import error_response
from harmonia_py.web.state import CACHE, PRINCIPAL, administration_of, cache_of

_MAX_BODY: Final = 4096


class PinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a PUT; parts of the rule that are left out stay as they are.

    Attributes:
        path: the store path, in full or by its base name.
        keep_revisions: so many of the newest keep their closures.
        keep_days: those that were set within so many days do.
        keep_forever: all of them do.
    """

    path: str
    keep_revisions: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    keep_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] | None = None
    keep_forever: bool | None = None

    @property
    def change(self) -> PinRuleChange:
        """The change of the rule."""
        return PinRuleChange(
            keep_revisions=self.keep_revisions,
            keep_seconds=None if self.keep_days is None else int(self.keep_days * DAY),
            keep_forever=self.keep_forever,
        )


async def put(request: web.Request) -> web.StreamResponse:
    """Set a pin. The answer says its revision, and whether that waits for the path to be published."""
    name = PinName.parse(request.match_info["pin"])
    administration = _administration_of(request)
    wanted = _parse(await upload.read(request, _MAX_BODY))
    path = _store_path(wanted.path, cache_of(request).cache_info.store_dir)
    revision = await administration.pins.set(
        administration.row.id,
        name,
        path,
        wanted.change,
        set_by=request[PRINCIPAL].name,
        now=administration.now(),
    )
    return json_line({"name": name, **revision.to_json()})


async def delete(request: web.Request) -> web.StreamResponse:
    """Remove a pin with all its revisions; what they alone kept is collected as its use says."""
    name = PinName.parse(request.match_info["pin"])
    administration = _administration_of(request)
    removed = await administration.pins.remove(
        administration.row.id, name, removed_by=request[PRINCIPAL].name, now=administration.now()
    )
    if not removed:
        return error_response(HTTPStatus.NOT_FOUND, f"there is no pin {name} in the cache {request[CACHE].name}")
    return json_line({"name": name})


def _administration_of(request: web.Request) -> CacheAdministration:
    found = administration_of(request)
    if found is None:
        raise PushRefused(f"nothing is pushed to the cache {request[CACHE].name}, so it has no pins")
    return found


def _parse(data: bytes) -> PinRequest:
    try:
        return json_text.decode(data, PinRequest)
    except FormatError as error:
        raise FormatError(f'not a pin: {error}; send JSON such as {{"path": "<store path>"}}') from None


def _store_path(text: str, store_dir: StoreDir) -> StorePath:
    return store_dir.parse_path(text) if text.startswith("/") else StorePath.parse(text)
