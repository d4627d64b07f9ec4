"""`harmonia-py cache`: the caches of the catalog, made, listed, shown, changed, deleted."""

import argparse
import json
from typing import Any

from msgspec.structs import asdict, replace

from harmonia_py.cache.access import may_look_into
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.catalog.caches import CHUNKS, CacheRow, CacheSettings
from harmonia_py.catalog.paging import all_of
from harmonia_py.chunks.installed import check_installed
from harmonia_py.commands.shared.catalog import any_cache, entry, found_cache, in_catalog, named_cache, now, seconds_of
from harmonia_py.commands.shared.options import add_config, add_json_lines, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.config.settings import Config
from harmonia_py.config.units import parse_size
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError, naming
from harmonia_py.nix.signing import PublicKey


def add_arguments(parser: Parser) -> None:
    """The commands, each with the cache and its options."""
    parser.describe(
        """
        A server has one cache at / and any number of others below their names. They are made and changed here, at
        once, also in a server that runs. Caches that harmonia.toml declares are changed there.""",
        ("harmonia-py cache create team", "a private cache, at https://cache.example.org/team"),
        ("harmonia-py cache create open --public --priority 45", "one that everybody may read"),
        ("harmonia-py cache configure team --max-size 200G", "change what is given, leave the rest"),
        ("harmonia-py cache list", "which there are"),
    )
    verbs = parser.add_actions()
    create = verbs.add_parser("create", help="make a cache, private unless --public is given")
    configure = verbs.add_parser("configure", help="change a cache: what is given, and nothing else")
    for verb in (create, configure):
        _add_settings(verb)
    listing = verbs.add_parser("list", help="show the caches")
    show = verbs.add_parser("show", help="show how a cache is set up")
    delete = verbs.add_parser("delete", help="free the name, and remove what nothing else keeps")
    delete.add_argument("--yes", action="store_true", help="really")
    for verb in (listing, show):
        add_json_lines(verb)
    for verb in (create, configure, show, delete):
        verb.add_argument("name", metavar="NAME", help="1 to 50 letters, digits, _, + and -")
    for verb in (create, configure, listing, show, delete):
        add_config(verb)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The options for the fields of `CacheSettings`, each None unless it is given."""
    yes_or_no = argparse.BooleanOptionalAction
    parser.add_argument("--public", action=yes_or_no, help="whether reading takes no token")
    parser.add_argument("--priority", metavar="N", type=int, help="clients ask the cache with the smaller number first")
    parser.add_argument("--want-mass-query", action=yes_or_no, help="whether clients may ask for many paths at once")
    parser.add_argument("--local-store", action=yes_or_no, help="whether it has the paths of the local store as well")
    parser.add_argument(
        "--signed-by",
        metavar="KEY",
        action="append",
        help="take only paths that carry a signature by this public key; may be repeated",
    )
    parser.add_argument(
        "--look-into", metavar="CACHE", action="append", help="it has the paths of this cache as well; may be repeated"
    )
    parser.add_argument(
        "--look-into-upstream",
        metavar="NAME",
        action="append",
        help="it has the paths of this upstream as well; may be repeated",
    )
    parser.add_argument(
        "--upstream-key-name",
        metavar="KEY",
        action="append",
        help="Attic's clients leave out what carries a signature by this key: cache.nixos.org-1; may be repeated",
    )
    parser.add_argument("--max-size", metavar="SIZE", help="of all that it keeps: 200G")
    parser.add_argument(
        "--keep-unused", metavar="TIME", help="how long what nothing asks for stays: 30d, 8w, 1y, or forever"
    )
    parser.add_argument(
        "--grace", metavar="TIME", help="how long what is to go stays, in which any use keeps it: 1h unless given"
    )
    parser.add_argument("--max-nar-size", metavar="SIZE", help="of the largest NAR that may be pushed: 10G")
    parser.add_argument(
        "--deduplicate", choices=("files", "chunks"), help="chunks: files become chunks that they share with others"
    )
    parser.add_argument(
        "--deduplicate-after", metavar="TIME", help="how long a file is not asked for before it does: 1d unless given"
    )


def run(options: argparse.Namespace) -> None:
    """Do it."""
    actions = {"create": _create, "configure": _configure, "list": _list, "show": _show, "delete": _delete}
    config = load(options)
    actions[options.action](options, config)


def _create(options: argparse.Namespace, config: Config) -> None:
    name, changes = named_cache(options.name), _changes(options)

    async def create(catalog: SqlCatalog) -> None:
        settings = replace(CacheSettings(), **changes)
        await check_elsewhere(catalog, config, name, settings)
        await catalog.caches.create(name, settings, declared=False, now=now())
        await catalog.audit.note([entry("cache.create", cache=name, subject=name, **changes)])

    in_catalog(config, create, make=True)


def _configure(options: argparse.Namespace, config: Config) -> None:
    name, changes = named_cache(options.name), _changes(options)

    async def configure(catalog: SqlCatalog) -> None:
        row = await _own(catalog, name)
        settings = replace(row.settings, **changes)
        await check_elsewhere(catalog, config, name, settings)
        await catalog.caches.change(name, changes)
        await catalog.audit.note([entry("cache.configure", cache=name, subject=name, **changes)])

    in_catalog(config, configure)


def _list(options: argparse.Namespace, config: Config) -> None:
    rows = in_catalog(config, lambda catalog: all_of(catalog.caches.page, lambda row: row.name))
    for row in [row for row in rows if row.name != DEFAULT]:
        if options.json:
            print(json.dumps(_fields(row)))
        else:
            print(f"{row.name}: {'public' if row.settings.public else 'private'}, priority {row.settings.priority}")


def _show(options: argparse.Namespace, config: Config) -> None:
    name = named_cache(options.name)

    async def show(catalog: SqlCatalog) -> dict[str, Any]:
        row = await found_cache(catalog, name)
        size = await catalog.objects.size(row.id)
        has = {"paths": size.objects, "size": size.size, "chunked_paths": await catalog.chunk_work.chunked(row.id)}
        return _fields(row) | has

    fields = in_catalog(config, show)
    if options.json:
        print(json.dumps(fields))
        return
    for key, value in fields.items():
        print(f"{key} = {json.dumps(value)}")


def _delete(options: argparse.Namespace, config: Config) -> None:
    name = named_cache(options.name)
    if not options.yes:
        raise ConfigError(f"this removes the cache {name} and what nothing else keeps; give --yes if you mean it")

    async def delete(catalog: SqlCatalog) -> None:
        await _own(catalog, name)
        await catalog.caches.delete(name, now=now())
        await catalog.audit.note([entry("cache.delete", cache=name, subject=name)])

    in_catalog(config, delete)


async def _own(catalog: SqlCatalog, name: CacheName) -> CacheRow:
    row = await found_cache(catalog, name)
    if row.declared:
        raise ConfigError(f"the cache {name} is declared in the configuration file: change it there")
    return row


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gives, by the names that they have in `CacheSettings`."""
    names = ("public", "priority", "want_mass_query", "local_store", "deduplicate")
    changes = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    for name in ("max_size", "max_nar_size"):
        if getattr(options, name) is not None:
            changes[name] = _size(f"--{name.replace('_', '-')}", getattr(options, name))
    changes |= _durations(options)
    lists = {
        "caches": options.look_into,
        "upstreams": options.look_into_upstream,
        "upstream_key_names": options.upstream_key_name,
    }
    for name, given in lists.items():
        if given is not None:
            changes[name] = tuple(dict.fromkeys(given))
    if options.signed_by is not None:
        with naming("--signed-by"):
            changes["signed_by"] = tuple(str(PublicKey.parse(key)) for key in options.signed_by)
    if changes.get("deduplicate") == CHUNKS:
        check_installed()
    return changes


def _durations(options: argparse.Namespace) -> dict[str, int | None]:
    changes: dict[str, int | None] = {}
    if options.keep_unused is not None:
        forever = options.keep_unused == "forever"
        changes["keep_unused"] = None if forever else seconds_of("--keep-unused", options.keep_unused)
    for name in ("grace", "deduplicate_after"):
        if getattr(options, name) is not None:
            changes[name] = seconds_of(f"--{name.replace('_', '-')}", getattr(options, name))
    return changes


def _size(option: str, text: str) -> int:
    try:
        return parse_size(option, text)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _fields(row: CacheRow) -> dict[str, Any]:
    return {"name": row.name, "declared": row.declared, **asdict(row.settings)}


async def check_elsewhere(catalog: SqlCatalog, config: Config, name: CacheName, settings: CacheSettings) -> None:
    """Check that the cache `name` may look where `settings` say, as it is checked in `harmonia.toml`.

    Raises:
        ConfigError: there is no such upstream or cache, a public cache would show what a private one has, or caches
            look through each other in a circle.
    """
    upstreams = {upstream.label for upstream in config.upstream}
    for upstream in settings.upstreams:
        if upstream not in upstreams:
            known = f"; there are {', '.join(sorted(upstreams))}" if upstreams else ""
            raise ConfigError(f"there is no upstream {upstream}{known}")
    ways, seen = [(settings.caches, [str(name)])], {str(name)}
    while ways:
        others, way = ways.pop()
        for other in others:
            if other == name:
                raise ConfigError(f"{name} looks through itself: {' -> '.join([*way, other])}")
            if other in seen:
                continue
            seen.add(other)
            found = await _settings_of(catalog, config, other)
            if not may_look_into(public=settings.public, other_public=found.public):
                raise ConfigError(f"{other} is not public, and everyone who reads {name} would read it")
            ways.append((found.caches, [*way, other]))


async def _settings_of(catalog: SqlCatalog, config: Config, name: str) -> CacheSettings:
    if name == DEFAULT:
        table = config.default_cache
        return CacheSettings(public=config.is_public, caches=() if table is None else tuple(table.caches))
    return (await found_cache(catalog, any_cache(name))).settings
