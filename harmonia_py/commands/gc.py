"""`harmonia-py gc`: collect now what the caches do not keep any more, or say what would go, and why."""

import argparse
import json
import os
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict
from rich.filesize import decimal

from harmonia_py.catalog.caches import CacheRow, Timestamp, iso
from harmonia_py.catalog.collection import Collected
from harmonia_py.catalog.collector import Collector
from harmonia_py.catalog.paging import all_of, rows_of
from harmonia_py.catalog.pins import DAY
from harmonia_py.commands.shared.catalog import in_catalog, in_copied_catalog, now
from harmonia_py.commands.shared.options import add_config, add_json_lines, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.progress import count
from harmonia_py.config import key_files
from harmonia_py.config.settings import Config
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import StorageError
from harmonia_py.metrics.board import Metrics

_NANOSECONDS: Final = 1_000_000_000
# A pass of the server's own is seldom longer than a second.
_WAIT_SECONDS: Final = 60.0
_WORDS: Final = {
    "unused": "not used for longer than keep_unused",
    "quota": "the longest unused when its cache was too large",
    "deleted": "its cache was deleted",
    "waited": "its references never came",
    "refused": "the local store refused it",
}


def add_arguments(parser: Parser) -> None:
    """The options: whether to collect, and the form of the output."""
    parser.describe(
        """
        Collect what no cache keeps any more: a server does it every minute by itself. What has not been used for longer
        than keep_unused of its cache, or is too much for max_size, is condemned first and stays for an hour, in which
        any use keeps it; what has been condemned for that long goes. What a pin reaches stays, and what a push under
        way was told is here.""",
        ("harmonia-py gc --dry-run", "say what would go now and within the hour, why, and what keeps the rest"),
        ("harmonia-py gc", "collect now, beside a server that runs or without one"),
        ("harmonia-py gc --dry-run --json", "one object a line: paths, caches, and the sums last"),
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing: collect in a copy of the catalog")
    add_json_lines(parser)
    add_config(parser)


class Going(Struct, frozen=True, kw_only=True):
    """A path that has gone, or is condemned.

    Attributes:
        cache: its cache.
        path: that goes.
        why: a word of `_WORDS`.
        size: bytes of its file.
        used: when it was last asked for.
        goes: when it goes unless something asks for it; None when it has gone.
    """

    cache: str
    path: str
    why: str
    size: int
    used: str | None
    goes: str | None


def run(options: argparse.Namespace) -> None:
    """Do it, or say what it would do."""
    config = load(options)

    async def collect(catalog: SqlCatalog) -> None:
        begun, done = await (_collect_rows(catalog) if options.dry_run else _collect(catalog, config))
        await _report(options, catalog, begun, done)

    if options.dry_run:
        in_copied_catalog(config, collect)
    else:
        in_catalog(config, collect)


async def _collect_rows(catalog: SqlCatalog) -> tuple[Timestamp, Collected]:
    """Collect in a catalog that has no bytes."""

    async def delete_nothing(_keys: Iterable[str]) -> list[str]:
        return []

    collector = Collector(
        catalog.collection, catalog.garbage, delete_nothing, sizes=catalog.objects, wanted=catalog.room_wanted
    )
    begun = now()
    return begun, await collector.run(begun)


async def _collect(catalog: SqlCatalog, config: Config) -> tuple[Timestamp, Collected]:
    """Collect as the server does, with its bytes.

    Raises:
        StorageError: something else collects for a long time.
    """
    from harmonia_py.wiring.cache_keys import CacheKeys  # noqa: PLC0415  # --dry-run opens no storage
    from harmonia_py.wiring.collecting import catalog_fit, pushed_housekeeping  # noqa: PLC0415
    from harmonia_py.wiring.pushing import PushNode  # noqa: PLC0415

    metrics = Metrics.alone()
    keys = CacheKeys(catalog.keys, key_files.read_key_encryption(config, os.environ))
    async with PushNode.of(config, catalog, metrics) as node:
        if not await catalog_fit(node).is_fit():
            raise StorageError("nothing is collected: the catalog is not that of the files")
        begun = node.now()
        done = await pushed_housekeeping(node, keys, metrics).look(_WAIT_SECONDS)
    if done is None:
        raise StorageError(f"another process has been collecting for {_WAIT_SECONDS:.0f} s; try again later")
    return begun, done


async def _report(options: argparse.Namespace, catalog: SqlCatalog, begun: Timestamp, done: Collected) -> None:
    caches = await all_of(catalog.caches.page, lambda row: row.name)
    condemned, condemned_size = 0, 0
    if options.dry_run or options.json:
        async for going in _gone(catalog, begun):
            _say(options, going)
    for cache in caches:
        async for one in rows_of(partial(catalog.collection.condemned, cache.id), lambda one: one.place):
            condemned, condemned_size = condemned + 1, condemned_size + one.size
            if options.dry_run or options.json:
                goes = iso(Timestamp(one.since + cache.settings.grace))
                why, used = one.reason.value, iso(one.used)
                _say(options, Going(cache=cache.name, path=one.path, why=why, size=one.size, used=used, goes=goes))
    if options.dry_run or options.json:
        for cache in caches:
            await _say_what_stays(options, catalog, cache)
    _say_sums(options, done, condemned, condemned_size)


async def _gone(catalog: SqlCatalog, begun: Timestamp) -> AsyncIterator[Going]:
    """The paths that went since then, as the audit log has them."""
    begin = (begun * _NANOSECONDS, "")
    async for one in rows_of(catalog.audit.page, lambda one: (one.at_ns, one.id), after=begin):
        if one.action == "collect":
            detail = json.loads(one.detail)
            yield Going(
                cache=one.cache,
                path=one.subject,
                why=detail["why"],
                size=detail["size"],
                used=iso(detail["used"]),
                goes=None,
            )


def _say(options: argparse.Namespace, going: Going) -> None:
    if options.json:
        print(json.dumps(asdict(going)))
        return
    when = "goes now" if going.goes is None else f"goes at {going.goes} unless something asks for it"
    why = f"{_WORDS[going.why]}, last used {going.used}"
    print(f"{going.cache}: {going.path}, {decimal(going.size)}, {when}: {why}")


async def _say_what_stays(options: argparse.Namespace, catalog: SqlCatalog, cache: CacheRow) -> None:
    """The figures of what stays in a cache, and of the pins that keep some of it."""
    size = await catalog.objects.size(cache.id)
    objects, total = size.objects - size.condemned, size.size - size.condemned_size
    pins: list[dict[str, Any]] = []
    for pin in await all_of(partial(catalog.pins.page, cache.id), lambda pin: pin.name):
        if pin.newest is not None:
            paths, pinned = await catalog.collection.closure_size(cache.id, pin.newest.hash_part)
            pins.append({"name": pin.name, "path": pin.newest.path, "paths": paths, "size": pinned})
    unused = cache.settings.keep_unused
    if options.json:
        fields = {"cache": cache.name, "paths": objects, "size": total, "pins": pins, "keep_unused": unused}
        print(json.dumps({"stays": fields}))
        return
    if not objects:
        return
    print(f"{cache.name}: {count(objects, 'path')} {'stays' if objects == 1 else 'stay'}, {decimal(total)}")
    for kept in pins:
        print(f"  the pin {kept['name']} keeps {count(kept['paths'], 'path')}, {decimal(kept['size'])}")
    rest = "however long unused" if unused is None else f"while it was used within {unused / DAY:g} days"
    print(f"  what no pin keeps stays {rest}")


def _say_sums(options: argparse.Namespace, done: Collected, condemned: int, condemned_size: int) -> None:
    if options.json:
        sums = {
            "removed": done.removed,
            "removed_size": done.removed_size,
            "condemned": condemned,
            "condemned_size": condemned_size,
            "revived": done.revived,
            "pushes_given_up": done.swept,
            "waited_in_vain": done.waited,
            "files_deleted": done.deleted,
        }
        print(json.dumps({"sums": sums, "dry_run": options.dry_run}))
        return
    would = "would go" if options.dry_run else "went"
    print(f"{count(done.removed, 'path')} {would}, {decimal(done.removed_size)}; {count(done.deleted, 'file')}")
    what = f"{count(condemned, 'path')}, {decimal(condemned_size)}"
    print(f"{what}, condemned: to go after their grace unless something asks for them")
