"""`harmonia-py use`: lets the Nix of this machine substitute from a cache, and undoes it."""

import argparse
import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct
from rich.console import Console

from harmonia_py.client.answers import CacheInfo
from harmonia_py.client.api import PushApi
from harmonia_py.client.http import HttpServer
from harmonia_py.commands.shared.options import add_cache
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.progress import messages, results
from harmonia_py.config.logins import CacheUrl, find_cache
from harmonia_py.config.netrc import add_entry, remove_entry
from harmonia_py.config.nix_conf import Block, add_block, has_block, remove_block, settings_of, without_blocks
from harmonia_py.config.private_file import read_private, write_private
from harmonia_py.errors import ConfigError

_PUBLIC: Final = 0o644
_NIXOS: Final = Path("/etc/NIXOS")


def add_arguments(parser: Parser) -> None:
    """The arguments: the cache, and whether to undo it."""
    parser.describe(
        """
        Let Nix substitute from a cache: its URL, the keys to trust and the token go into nix.conf and netrc of this
        user, or, as root, of the system. What is written is shown before. Nix needs no experimental feature for it.""",
        ("harmonia-py use team", "from now on"),
        ("harmonia-py use team --dry-run", "only show what would be written"),
        ("harmonia-py use team --remove", "take exactly that out again"),
    )
    add_cache(parser)
    parser.add_argument("--remove", action="store_true", help="undo it")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")


class _Files(Struct, frozen=True):
    """The files of Nix that are changed.

    Attributes:
        conf: nix.conf.
        netrc: the file from which Nix takes passwords.
        is_system: whether the two are the system's.
        names_netrc: whether nix.conf has to name the netrc.
    """

    conf: Path
    netrc: Path
    is_system: bool
    names_netrc: bool


def run(options: argparse.Namespace) -> None:
    """Change the files, or say what to put into a configuration of NixOS."""
    cache = find_cache(options.cache, os.environ)
    files = _files(os.environ)
    console = messages()
    if options.remove:
        _remove(cache, files, console, dry_run=options.dry_run)
        return
    info = asyncio.run(_ask(cache))
    if not info.public_keys:
        console.print(
            f"{cache.url} signs nothing: `harmonia-py key create` on its server makes a key that clients trust"
        )
    token = None if info.public else cache.token
    block = Block(cache.url, _settings(cache, info, files, with_netrc=token is not None))
    if files.is_system and _NIXOS.exists():
        _print_nixos(block)
    else:
        _show_and_write(files.conf, add_block(read_private(files.conf), block), block, console, dry_run=options.dry_run)
    if token is not None:
        host = urlsplit(cache.server).hostname or ""
        console.print(f"{files.netrc}: an entry with the token for {host}, readable by its owner alone")
        if not options.dry_run:
            write_private(files.netrc, add_entry(read_private(files.netrc), host, token))
    if not files.is_system:
        console.print(
            "A nix-daemon heeds this only for users in its `trusted-users`; as root, `use` sets up the system."
        )


async def _ask(cache: CacheUrl) -> CacheInfo:
    async with HttpServer(cache.server, cache.token, patience=0) as server:
        return await PushApi(server, cache.root).cache()


def _files(environment: Mapping[str, str]) -> _Files:
    """The files of the system for root, else those of the user."""
    is_system = os.geteuid() == 0
    home = environment.get("XDG_CONFIG_HOME")
    own = (Path(home) if home else Path("~/.config").expanduser()) / "nix"
    directory = Path(environment.get("NIX_CONF_DIR") or "/etc/nix") if is_system else own
    conf = directory / "nix.conf"
    named = settings_of(without_blocks(read_private(conf))).get("netrc-file")
    # Without a setting Nix reads the one beside the system's nix.conf.
    return _Files(conf, Path(named or directory / "netrc"), is_system, names_netrc=not is_system and not named)


def _settings(cache: CacheUrl, info: CacheInfo, files: _Files, *, with_netrc: bool) -> list[tuple[str, str]]:
    settings = [("extra-substituters", cache.url)]
    if info.public_keys:
        settings.append(("extra-trusted-public-keys", " ".join(info.public_keys)))
    if with_netrc and files.names_netrc:
        settings.append(("netrc-file", str(files.netrc)))
    return settings


def _show_and_write(file: Path, text: str, block: Block, console: Console, *, dry_run: bool) -> None:
    console.print(f"{file}:")
    for line in block.lines():
        console.print(f"  + {line}", markup=False)
    if not dry_run:
        write_private(file, text, _PUBLIC)


def _print_nixos(block: Block) -> None:
    """The lines for a configuration of NixOS, on standard output."""
    out = results()
    out.print("# configuration.nix")
    for name, value in block.settings:
        words = " ".join(f'"{word}"' for word in value.split())
        out.print(f"nix.settings.{name} = {words if name == 'netrc-file' else f'[ {words} ]'};", markup=False)


def _remove(cache: CacheUrl, files: _Files, console: Console, *, dry_run: bool) -> None:
    before = read_private(files.conf)
    if not has_block(before, cache.url):
        raise ConfigError(f"{files.conf}: has nothing of {cache.url}")
    after = remove_block(before, cache.url)
    console.print(f"{files.conf}: without the lines for {cache.url}")
    netrc = read_private(files.netrc)
    host = urlsplit(cache.server).hostname or ""
    others = f"# harmonia-py: {cache.server}/" in (after or "")
    rest = netrc if others else remove_entry(netrc, host)
    if rest != netrc:
        console.print(f"{files.netrc}: without the entry for {host}")
    if not dry_run:
        for file, was, text, mode in ((files.conf, before, after, _PUBLIC), (files.netrc, netrc, rest, 0o600)):
            if text is None and was is not None:
                file.unlink()
            elif text is not None and text != was:
                write_private(file, text, mode)
