"""`/`: the page of a cache, with instructions to use it."""

import shlex
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from msgspec import Struct

from harmonia_py.cache.explore import Explorer
from harmonia_py.errors import HarmoniaError
from harmonia_py.web.admission.address import url_of
from harmonia_py.web.pages.client_command import realise
from harmonia_py.web.pages.templates import respond_page
from harmonia_py.web.state import CACHE, SERVING, cache_of

# The characters that a string of Nix would take for more than text.
_NIX_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$"})


class Block(Struct, frozen=True):
    """Something to copy, with what it is for."""

    title: str
    where: str
    text: str


async def get(request: web.Request) -> web.StreamResponse:
    """The page for a person that opens the URL of a cache."""
    cache = cache_of(request)
    url = url_of(request)
    named = request[CACHE]
    keys = [str(key) for key in named.keys_for_clients]
    values = {
        "url": url,
        "public_keys": [str(key) for key in cache.public_keys],
        "keys": keys,
        "store_dir": cache.cache_info.store_dir,
        "priority": cache.cache_info.priority,
        "key_ends": {str(key): _day(named.key_ends.get(key.name)) for key in cache.public_keys},
        "upstreams": named.upstreams,
        "is_pushed_to": request.app[SERVING].pushes_of(named) is not None,
        "has_store": named.explorer is not None,
        "count": await _count(named.explorer),
        "blocks": _blocks(url, keys, cache.cache_info.store_dir, is_private=not named.public),
    }
    return await respond_page(request, "home.html", values)


async def redirect(request: web.Request) -> web.StreamResponse:
    """`/NAME` leads to the page of the cache, below which its links lead further."""
    return web.Response(status=HTTPStatus.FOUND, text="Found\n", headers={hdrs.LOCATION: f"{request[CACHE].name}/"})


async def _count(explorer: Explorer | None) -> int | None:
    try:
        return None if explorer is None else await explorer.count()
    except HarmoniaError:
        # A figure is missing; how to use this cache is as true as before.
        return None


def _blocks(url: str, keys: list[str], store_dir: str, *, is_private: bool) -> list[Block]:
    conf = [f"extra-substituters = {url}"]
    settings = _nix_list("substituters", [url])
    flake = _nix_list("extra-substituters", [url])
    if keys:
        conf.append(f"extra-trusted-public-keys = {' '.join(keys)}")
        settings += _nix_list("trusted-public-keys", keys)
        flake += _nix_list("extra-trusted-public-keys", keys)
    command = realise(f"{shlex.quote(store_dir)}/…", url, keys)
    where = "This cache is not public: in the file that netrc-file in nix.conf names, with a token for this cache."
    netrc = Block("netrc", where, f"machine {urlsplit(url).hostname} login nix password TOKEN")
    return [
        Block("nix.conf", "For any machine: in /etc/nix/nix.conf; then restart the nix-daemon.", "\n".join(conf)),
        *([netrc] if is_private else []),
        Block("NixOS", "In configuration.nix.", "\n".join(["nix.settings = {", *settings, "};"])),
        Block("Flake", "In flake.nix, for all users of the flake.", "\n".join(["nixConfig = {", *flake, "};"])),
        Block("Command line", "Once, as root or another user whom Nix trusts: a path and all it refers to.", command),
    ]


def _day(at: float | None) -> str | None:
    """The day of a time, in UTC, for people."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _nix_list(name: str, texts: list[str]) -> list[str]:
    return [f"  {name} = [", *(f'    "{text.translate(_NIX_ESCAPES)}"' for text in texts), "  ];"]
