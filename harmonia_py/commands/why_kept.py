"""`harmonia-py why-kept`: the shortest reason for which a path is kept, in each cache that has it."""

import argparse
import json
from collections.abc import Sequence
from typing import Final

from harmonia_py.catalog.caches import CacheRow, iso
from harmonia_py.catalog.paging import all_of
from harmonia_py.catalog.pins import DAY
from harmonia_py.catalog.reachability import KeptBy, WhyKept
from harmonia_py.catalog.standing import PathState, Standing, Standings
from harmonia_py.commands.shared.catalog import any_cache, found_cache, in_catalog, now
from harmonia_py.commands.shared.options import add_config, add_json_lines, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.path_arguments import parse_hash_part
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError
from harmonia_py.nix.store_path import StorePath

# Such a search has taken seconds by then.
_MOST: Final = 100_000


def add_arguments(parser: Parser) -> None:
    """The arguments: the path, and the cache."""
    parser.describe(
        """
        Say why a path that was pushed is kept: the shortest chain of references from something that is kept for a
        reason of its own (a pin, a push under way, a use) down to the path. What is in the local store is kept by the
        roots of Nix: nix-store --query --roots says which.""",
        ("harmonia-py why-kept ./result", "in every cache that has it"),
        ("harmonia-py why-kept 26xbg1ndr7hbcncrlf9nhx5is2b25d13 --cache team --json", "in one, for a script"),
    )
    parser.add_argument("path", metavar="PATH", help="a store path, its hash part, or a link to it")
    parser.add_argument("--cache", metavar="NAME", help="only in this cache")
    add_json_lines(parser)
    add_config(parser)


def run(options: argparse.Namespace) -> None:
    """Say it."""
    config = load(options)
    hash_part = parse_hash_part(options.path, config.store_dir)

    async def look(catalog: SqlCatalog) -> list[Standing]:
        if options.cache is not None:
            caches: Sequence[CacheRow] = [await found_cache(catalog, any_cache(options.cache))]
        else:
            caches = await all_of(catalog.caches.page, lambda row: row.name)
        standings = Standings(catalog.objects, catalog.objects, most=_MOST, names_hidden=True)
        told = [await standings.find(cache, hash_part, now=now()) for cache in caches]
        return [standing for standing in told if standing is not None]

    found = in_catalog(config, look)
    if not found:
        where = f"the cache {options.cache}" if options.cache is not None else "no cache"
        raise ConfigError(f"{where} has {hash_part}" if options.cache is None else f"{where} does not have {hash_part}")
    for one in found:
        if not one.is_known:
            raise ConfigError(f"{one.cache.name}: more than {_MOST} paths lead to it; none that was looked at says why")
        print(json.dumps(one.to_json()) if options.json else _words(one))


def _words(standing: Standing) -> str:
    return "\n".join([f"{standing.cache.name}: {standing.path} {_because(standing)}", *_indented(standing.chain)])


def _because(standing: Standing) -> str:
    if standing.state is PathState.WAITING:
        return f"waits for {', '.join(sorted(standing.waits_for))}, for an hour after it came"
    if standing.state is PathState.QUARANTINED:
        return "is not shown: its file is missing or damaged, and asked for at the next push"
    if standing.state is PathState.CONDEMNED:
        return f"is kept by nothing: it goes at {iso(standing.goes)} unless something asks for it"
    if standing.reason is None:
        return "is kept by nothing: the next collection condemns it"
    return f"is kept by {_keeper(standing, standing.reason)}"


def _keeper(standing: Standing, reason: WhyKept) -> str:
    if reason.by is KeptBy.PIN:
        return f"the pin {reason.name}"
    if reason.by is KeptBy.SESSION:
        return f"a push under way, {reason.name}, which was told that it is here"
    if reason.by is KeptBy.WAITING:
        return "a path that waits for other references, within the hour after it came"
    assert standing.stored is not None
    used, unused = iso(standing.stored.used), standing.cache.settings.keep_unused
    if unused is None:
        return f"no limit of time, last used {used}; a max_size may end it"
    return f"a use within {unused / DAY:g} days" + (f", at {used}" if len(standing.chain) == 1 else ", of")


def _indented(chain: Sequence[StorePath]) -> list[str]:
    """The chain of references, each below what references it; nothing for the path alone."""
    if len(chain) <= 1:
        return []
    return [f"{'  ' * depth}{'└─ ' if depth > 1 else ''}{path}" for depth, path in enumerate(chain, 1)]
