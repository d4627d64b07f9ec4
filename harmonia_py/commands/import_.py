"""`harmonia-py import attic`: the caches of an Attic server taken over."""

import argparse
import asyncio
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from harmonia_py.commands.shared.catalog import opened_catalog
from harmonia_py.commands.shared.options import add_config, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.progress import add_json, count, hanging, print_json, progress_of, results
from harmonia_py.config import key_files
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError
from harmonia_py.metrics.board import Metrics

if TYPE_CHECKING:
    from harmonia_py.attic.catalog import AtticCatalog
    from harmonia_py.attic.rows import AtticCache
    from harmonia_py.attic.server_config import ServerConfig
    from harmonia_py.wiring.attic_import import Imported


def add_arguments(parser: Parser) -> None:
    """The arguments: the Attic server, and its caches."""
    parser.describe(
        """
        Take over what another cache server has. Of Attic: its caches with their settings and signing keys, and their
        paths. Each NAR is put together from its chunks and checked before it is published. Nothing of Attic is changed,
        and what was taken over costs a look: run it while atticd still serves, and once more when it has stopped. Exit
        status 1: something could not be taken over; it is said what.""",
        ("harmonia-py import attic --server-config /etc/atticd/server.toml", "everything"),
        ("harmonia-py import attic --server-config server.toml --dry-run", "what there is"),
        (
            "harmonia-py import attic --database sqlite:///srv/server.db --storage /srv/storage",
            "from a copy of its files",
        ),
    )
    sources = parser.add_subparsers(title="from what", metavar="SERVER", dest="source", required=True)
    attic = sources.add_parser("attic", help="a server of Attic: its database and its storage")
    attic.add_argument("--server-config", metavar="FILE", type=Path, help="server.toml of atticd")
    attic.add_argument("--database", metavar="URL", help="of its database, where that is not what server.toml says")
    attic.add_argument("--storage", metavar="DIRECTORY", type=Path, help="of its files, likewise")
    attic.add_argument("--cache", metavar="NAME", action="append", help="this cache alone; may be repeated")
    attic.add_argument(
        "--rename", metavar="OLD=NEW", action="append", default=[], help="give a cache another name; may be repeated"
    )
    attic.add_argument("--dry-run", action="store_true", help="say what there is, and take nothing")
    add_json(attic)
    add_config(attic)


def run(options: argparse.Namespace) -> int:
    """Take it over; exit status 1 when something could not be."""
    if options.server_config is None and options.database is None:
        options.usage("name --server-config, or --database and --storage")
    return asyncio.run(_import(load(options), options))


async def _import(config: Config, options: argparse.Namespace) -> int:
    from harmonia_py.attic.catalog import AtticCatalog  # noqa: PLC0415  # it imports a database
    from harmonia_py.attic.database import open_database  # noqa: PLC0415

    server = await asyncio.to_thread(_server_config, options)
    async with open_database(server.database) as database:
        source = AtticCatalog(database)
        caches = _wanted(await source.caches(), options.cache)
        names = _names(options.rename, caches)
        if options.dry_run:
            return await _list(source, caches, names, as_json=options.as_json)
        done = await _take(config, server, source, [(cache, names.get(cache.name, cache.name)) for cache in caches])
    _say(done, as_json=options.as_json)
    return 1 if any(one.failed or one.waiting for one in done.values()) else 0


def _server_config(options: argparse.Namespace) -> "ServerConfig":
    from harmonia_py.attic.server_config import ServerConfig  # noqa: PLC0415  # as above

    if options.server_config is None:
        return ServerConfig(database=options.database, directory=options.storage)
    server = ServerConfig.read(options.server_config, os.environ, database=options.database)
    return server if options.storage is None else dataclasses.replace(server, directory=options.storage)


def _wanted(caches: "Any", names: list[str] | None) -> "list[AtticCache]":
    if names is None:
        return list(caches)
    by_name = {cache.name: cache for cache in caches}
    if unknown := sorted(set(names) - by_name.keys()):
        there = ", ".join(sorted(by_name)) or "none"
        raise ConfigError(f"Attic has no cache {' and no '.join(unknown)}; there is {there}")
    return [by_name[name] for name in names]


def _names(given: list[str], caches: "list[AtticCache]") -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if any(not separator for _, separator, _ in pairs):
        raise ConfigError("--rename takes OLD=NEW")
    names = {old: new for old, _, new in pairs}
    if unknown := sorted(names.keys() - {cache.name for cache in caches}):
        raise ConfigError(f"--rename: no cache {' and no '.join(unknown)} is to be taken over")
    if len({names.get(cache.name, cache.name) for cache in caches}) < len(caches):
        raise ConfigError("--rename: two caches would have one name")
    return names


async def _list(source: "AtticCatalog", caches: "list[AtticCache]", names: dict[str, str], *, as_json: bool) -> int:
    found: dict[str, dict[str, Any]] = {}
    for cache in caches:
        paths, size = await source.size(cache)
        found[cache.name] = {"as": names.get(cache.name, cache.name), "paths": paths, "nar_size": size}
    if as_json:
        print_json(found)
        return 0
    out = results()
    for name, told in found.items():
        out.print(f"{name}: {count(told['paths'], 'path')}, {told['nar_size']} bytes of NARs, to become {told['as']}")
    return 0


async def _take(
    config: Config, server: "ServerConfig", source: "AtticCatalog", caches: "list[tuple[AtticCache, str]]"
) -> "dict[str, Imported]":
    from harmonia_py.attic.chunk_files import ChunkFiles  # noqa: PLC0415  # as above
    from harmonia_py.catalog.cache_changes import CacheChanges  # noqa: PLC0415
    from harmonia_py.wiring.attic_import import AtticImport  # noqa: PLC0415
    from harmonia_py.wiring.pushing import PushNode  # noqa: PLC0415

    encryption = key_files.read_key_encryption(config, os.environ)
    async with opened_catalog(config, make=True) as catalog:
        changes = CacheChanges(catalog.caches, catalog.keys, catalog.audit, encryption=encryption)
        async with PushNode.of(config, catalog, Metrics.alone()) as node:
            if node.files.owner is not None:
                await node.files.owner.check()
            total = sum([(await source.size(cache))[1] for cache, _ in caches])
            with progress_of("importing", total) as report:
                work = AtticImport(
                    source,
                    ChunkFiles(server.directory, server.bucket),
                    node=node,
                    changes=changes,
                    retention_seconds=server.retention_seconds,
                    report=report,
                )
                return {name: await work.run(cache, name) for cache, name in caches}


def _say(done: "dict[str, Imported]", *, as_json: bool) -> None:
    if as_json:
        print_json({name: asdict(one) for name, one in done.items()})
        return
    out = results()
    for name, one in done.items():
        out.print(f"{name}: {count(one.paths, 'path')} taken over, {one.present} here already")
        for note in one.notes:
            out.print(hanging(out, "[bold]note[/]", note))
        for path, reason in one.waiting.items():
            out.print(hanging(out, "[bold yellow]not served[/]", f"{path}: {reason}"))
        for what, reason in one.failed.items():
            out.print(hanging(out, "[bold red]failed[/]", f"{what}: {reason}"))
