"""`/pins`: the pins of a cache; and `/pin/<name>`, which leads to the newest path of one. With `?json` for programs."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from aiohttp import hdrs, web

from harmonia_py.cache.access import Action
from harmonia_py.catalog.administration import CacheAdministration
from harmonia_py.catalog.pins import Pin, PinName
from harmonia_py.web.api.capabilities import json_line
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.pages.templates import date_of, respond_page
from harmonia_py.web.state import CACHE, PRINCIPAL, administration_of

_PAGE: Final = 100
_CACHE_CONTROL: Final = "no-cache"


async def get(request: web.Request) -> web.StreamResponse:
    """The pins of a cache, a page at a time, in the order of their names."""
    administration = administration_of(request)
    if administration is None:
        return not_found()
    after = request.query.get("after")
    pins = await administration.pins.page(administration.row.id, None if after is None else PinName.parse(after), _PAGE)
    following = pins[-1].name if len(pins) == _PAGE else None
    if "json" in request.query:
        tells_who = _tells_who(request)
        found = [pin.to_json(tells_who=tells_who) for pin in pins]
        return json_line({"pins": found, "next": following}, _CACHE_CONTROL)
    values = {
        "rows": [_row(pin) for pin in pins],
        "next": None if following is None else f"pins?after={quote(following)}",
    }
    return await respond_page(request, "pins.html", values)


async def get_one(request: web.Request) -> web.StreamResponse:
    """Lead to the newest path of a pin that is set; 404 while none is. `?json` gives its revisions as well."""
    name = PinName.parse(request.match_info["pin"])
    administration = administration_of(request)
    pin = None if administration is None else await administration.pins.find(administration.row.id, name)
    if administration is None or pin is None:
        return not_found()
    if "json" in request.query:
        tells_who = _tells_who(request)
        revisions = await _revisions(administration, name, tells_who=tells_who)
        return json_line({**pin.to_json(tells_who=tells_who), "revisions": revisions}, _CACHE_CONTROL)
    if pin.newest is None:
        return not_found()
    headers = {hdrs.LOCATION: f"../path/{pin.newest.hash_part}", hdrs.CACHE_CONTROL: _CACHE_CONTROL}
    return web.Response(status=HTTPStatus.FOUND, text=f"{pin.newest.path}\n", headers=headers)


async def _revisions(administration: CacheAdministration, name: PinName, *, tells_who: bool) -> list[Mapping[str, Any]]:
    found = await administration.pins.revisions(administration.row.id, name, now=administration.now())
    return [{**one.to_json(tells_who=tells_who), "keeps": keeps} for one, keeps in found]


def _tells_who(request: web.Request) -> bool:
    """Whether the client learns who set a pin: it does if it may set pins itself."""
    return request[CACHE].allows(request[PRINCIPAL], Action.PIN)


def _row(pin: Pin) -> dict[str, Any]:
    newest = pin.newest
    return {
        "name": pin.name,
        "href": f"pin/{quote(pin.name)}",
        "path": None if newest is None else newest.path,
        "revision": None if newest is None else newest.revision,
        "set": None if newest is None or newest.set_at is None else date_of(newest.set_at),
        "waiting": None if pin.waiting is None else pin.waiting.path,
        "keeps": pin.rule.words,
    }
