"""`/`: what this cache is, and how to use it."""

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.errors import HarmoniaError
from harmonia_py.web.address import url_of
from harmonia_py.web.pages import respond_page
from harmonia_py.web.state import cache_of

# What shells and Nix's strings would take for more than text.
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
    signed = bool(keys)
    conf = [f"extra-substituters = {url}"]
    settings = [f"  substituters = {_nix_list([url])};"]
    flake = [f"  extra-substituters = {_nix_list([url])};"]
    options = ["--option extra-substituters " + url]
    if signed:
        conf.append(f"extra-trusted-public-keys = {' '.join(keys)}")
        settings.append(f"  trusted-public-keys = {_nix_list(keys)};")
        flake.append(f"  extra-trusted-public-keys = {_nix_list(keys)};")
        options.append(f"--option extra-trusted-public-keys {_shell(' '.join(keys))}")
    store_path = f"{store_dir}/…"
    return [
        Block(
            "nix.conf", "Any machine with Nix: add to /etc/nix/nix.conf, then restart the nix-daemon.", "\n".join(conf)
        ),
        Block("NixOS", "In configuration.nix.", "\n".join(["nix.settings = {", *settings, "};"])),
        Block("Flake", "In flake.nix, for those who build it.", "\n".join(["nixConfig = {", *flake, "};"])),
        Block("Copy", "A store path and all it refers to, once.", f"nix copy --from {url} {store_path}"),
        Block(
            "Realise",
            "The same for every version of Nix.",
            " \\\n  ".join([f"nix-store --realise {store_path}", *options]),
        ),
    ]


def _nix_list(texts: list[str]) -> str:
    return " ".join(["[", *(f'"{text.translate(_NIX_ESCAPES)}"' for text in texts), "]"])


def _shell(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
