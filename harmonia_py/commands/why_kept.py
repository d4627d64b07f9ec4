"""`harmonia-py why-kept`: the shortest reason for which a path is kept, in each cache that has it."""

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from harmonia_py.catalog.caches import CacheId, CacheRow, Timestamp
from harmonia_py.catalog.objects import Keepers
from harmonia_py.catalog.pins import DAY
from harmonia_py.catalog.reachability import KeptBy, WhyKept, why_kept
from harmonia_py.commands.catalog import all_of, any_cache, found_cache, in_catalog, iso, now
from harmonia_py.commands.options import add_config, load
from harmonia_py.commands.parser import Parser
from harmonia_py.commands.path_arguments import parse_hash_part
from harmonia_py.errors import ConfigError
from harmonia_py.nix.store_path import HashPart, StorePath

if TYPE_CHECKING:
    from harmonia_py.database.catalog import SqlCatalog

# Referrers of a path that are looked at: any of them may lead to a reason.
_REFERRERS: Final = 1000
# Such a search has taken seconds by then.
_MOST: Final = 100_000
# A level of the search is asked for in portions, so that no question takes long.
_PORTION: Final = 256


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
    parser.add_argument("--json", action="store_true", help="one object a line")
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Say it."""
    _, config = load(options)
    hash_part = parse_hash_part(options.path, config.store_dir)

    async def look(catalog: "SqlCatalog") -> list[dict[str, Any]]:
        if options.cache is not None:
            caches: Sequence[CacheRow] = [await found_cache(catalog, any_cache(options.cache))]
        else:
            caches = await all_of(catalog.caches.page, lambda row: row.name)
        return [found for cache in caches if (found := await _look(catalog, cache, hash_part)) is not None]

    found = in_catalog(config, look)
    if not found:
        where = f"the cache {options.cache}" if options.cache is not None else "no cache"
        raise ConfigError(f"{where} has {hash_part}" if options.cache is None else f"{where} does not have {hash_part}")
    for one in found:
        print(json.dumps(one) if options.json else _words(one))  # noqa: T201
    return 0


async def _look(catalog: "SqlCatalog", cache: CacheRow, hash_part: HashPart) -> dict[str, Any] | None:
    """The words about the path in one cache; None when the cache does not have it."""
    path = (await catalog.objects.paths(cache.id, [hash_part])).get(hash_part)
    if path is None:
        return None
    told: dict[str, Any] = {"cache": cache.name, "path": path, "by": None, "name": None, "chain": [], "used": None}
    told |= {"keep_unused": cache.settings.keep_unused, "goes": None, "waits_for": []}
    waits = await catalog.objects.waiting(cache.id, hash_part)
    if waits is not None:
        return told | {"state": "waiting", "waits_for": sorted(waits)}
    stored = await catalog.objects.find(cache.id, hash_part)
    if stored is None:
        return told | {"state": "quarantined"}
    told["used"] = iso(stored.used)
    if stored.condemned_since is not None:
        return told | {"state": "condemned", "goes": iso(Timestamp(stored.condemned_since + cache.settings.grace))}
    reason = await _reason(catalog, cache, hash_part)
    if reason is None:
        return told | {"state": "published"}
    names = await catalog.objects.paths(cache.id, reason.path)
    chain = [str(names.get(one, one)) for one in reason.path]
    return told | {"state": "published", "by": reason.by.value, "name": reason.name, "chain": chain}


async def _reason(catalog: "SqlCatalog", cache: CacheRow, hash_part: HashPart) -> WhyKept | None:
    unused = cache.settings.keep_unused
    plan = why_kept(hash_part, None if unused is None else Timestamp(now() - unused))
    level: Collection[HashPart] = next(plan)
    looked_at = 0
    while True:
        looked_at += len(level)
        if looked_at > _MOST:
            raise ConfigError(f"more than {_MOST} paths of {cache.name} reference it; none that was looked at says why")
        try:
            level = plan.send(await _keepers(catalog, cache.id, level))
        except StopIteration as stop:
            reason: WhyKept | None = stop.value
            return reason


async def _keepers(catalog: "SqlCatalog", cache: CacheId, level: Collection[HashPart]) -> Mapping[HashPart, Keepers]:
    keepers: dict[HashPart, Keepers] = {}
    ordered = list(level)
    for start in range(0, len(ordered), _PORTION):
        portion = ordered[start : start + _PORTION]
        keepers |= await catalog.objects.keepers(cache, portion, _REFERRERS, now=now())
    return keepers


def _words(told: dict[str, Any]) -> str:
    return "\n".join([f"{told['cache']}: {told['path']} {_because(told)}", *_indented(told["chain"])])


def _because(told: dict[str, Any]) -> str:
    if told["state"] == "waiting":
        return f"waits for {', '.join(told['waits_for'])}, for an hour after it came"
    if told["state"] == "quarantined":
        return "is not shown: its file is missing or damaged, and asked for at the next push"
    if told["state"] == "condemned":
        return f"is kept by nothing: it goes at {told['goes']} unless something asks for it"
    if told["by"] is None:
        return "is kept by nothing: the next collection condemns it"
    return f"is kept by {_keeper(told)}"


def _keeper(told: dict[str, Any]) -> str:
    if told["by"] == KeptBy.PIN.value:
        return f"the pin {told['name']}"
    if told["by"] == KeptBy.SESSION.value:
        return f"a push under way, {told['name']}, which was told that it is here"
    unused = told["keep_unused"]
    if unused is None:
        return f"no limit of time, last used {told['used']}; a max_size may end it"
    return f"a use within {unused / DAY:g} days" + (f", at {told['used']}" if len(told["chain"]) == 1 else ", of")


def _indented(chain: Sequence[StorePath]) -> list[str]:
    """The chain of references, each below what references it; nothing for the path alone."""
    if len(chain) == 1:
        return []
    return [f"{'  ' * depth}{'└─ ' if depth > 1 else ''}{path}" for depth, path in enumerate(chain, 1)]
