"""`/`: what this cache is, and how to use it."""

import shlex
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.errors import HarmoniaError
from harmonia_py.web.address import url_of
from harmonia_py.web.pages import respond_page
from harmonia_py.web.state import cache_of

# What a string of Nix would take for more than text.
_NIX_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$"})


@dataclass(frozen=True, slots=True)
class Block:
    """Something to copy, with what it is for."""

    title: str
    where: str
    text: str


async def get(request: web.Request) -> web.StreamResponse:
    """The page for whoever finds the URL of a cache and opens it."""
    cache = cache_of(request)
    url = url_of(request)
    keys = [str(key) for key in cache.public_keys]
    values = {
        "url": url,
        "public_keys": keys,
        "store_dir": cache.cache_info.store_dir,
        "priority": cache.cache_info.priority,
        "upstreams": cache.upstreams,
        "has_store": cache.explorer is not None,
        "count": await _count(cache),
        "blocks": _blocks(url, keys, cache.cache_info.store_dir),
    }
    return await respond_page(request, "home.html", values)


async def _count(cache: BinaryCache) -> int | None:
    try:
        return None if cache.explorer is None else await cache.explorer.count()
    except HarmoniaError:
        # A figure is missing; how to use this cache is as true as before.
        return None


def _blocks(url: str, keys: list[str], store_dir: str) -> list[Block]:
    conf = [f"extra-substituters = {url}"]
    settings = _nix_list("substituters", [url])
    flake = _nix_list("extra-substituters", [url])
    options = [f"--option extra-substituters {url}"]
    if keys:
        conf.append(f"extra-trusted-public-keys = {' '.join(keys)}")
        settings += _nix_list("trusted-public-keys", keys)
        flake += _nix_list("extra-trusted-public-keys", keys)
        options.append(f"--option extra-trusted-public-keys {shlex.quote(' '.join(keys))}")
    store_path = f"{shlex.quote(store_dir)}/…"
    realise = " \\\n  ".join([f"nix-store --realise {store_path}", *options])
    return [
        Block("nix.conf", "For any machine: in /etc/nix/nix.conf; then restart the nix-daemon.", "\n".join(conf)),
        Block("NixOS", "In configuration.nix.", "\n".join(["nix.settings = {", *settings, "};"])),
        Block("Flake", "In flake.nix, for everybody who builds it.", "\n".join(["nixConfig = {", *flake, "};"])),
        Block("Command line", "Copies a store path and all it refers to.", f"nix copy --from {url} {store_path}"),
        Block("nix-store", "The same, without experimental features.", realise),
    ]


def _nix_list(name: str, texts: list[str]) -> list[str]:
    return [f"  {name} = [", *(f'    "{text.translate(_NIX_ESCAPES)}"' for text in texts), "  ];"]
