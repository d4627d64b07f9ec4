"""`harmonia-py fsck --rebuild`: catalogs made anew from the kept files."""

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import asdict

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheExists
from harmonia_py.commands.progress import count, hanging, messages, progress_of, results
from harmonia_py.config.settings import Config
from harmonia_py.metrics.board import Metrics

if TYPE_CHECKING:
    from harmonia_py.push.rebuilding import Rebuilt
    from harmonia_py.wiring.storages import OpenStorage

# What no file says.
_LOST: Final = (
    "tokens: make new ones with `token create`",
    "pins: set them again, before what they kept has not been used for too long",
    "the signing keys of caches: paths keep the signatures that they have; `key create` makes a key for the next ones",
    "settings of caches that a command made: they are private now; `cache configure` changes that",
    "realisations, which content-addressed derivations need: push their paths again",
    "the audit log, who pushed what, and when it was last used: that begins anew",
)


async def rebuild(config: Config, *, as_json: bool) -> int:
    """Fill the catalogs; exit status 1 when a file could not be taken."""
    from harmonia_py.wiring.storages import open_storage, storages_of  # noqa: PLC0415  # it imports the database

    report: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for place in await asyncio.to_thread(storages_of, config):
        name = place.name
        if not await asyncio.to_thread(place.directory.exists):
            continue
        async with open_storage(config, place) as storage:
            if storage.is_pushed:
                done = await _pushed(storage, config)
                report[name], faults = asdict(done), done.faults
            else:
                from harmonia_py.wiring.upkeep import takeover_of  # noqa: PLC0415  # as above

                report[name] = {"named": await takeover_of(storage.blobs, storage.catalog, config.store_dir).run()}
    _say(report, faults, as_json=as_json)
    return 1 if faults else 0


async def _pushed(storage: "OpenStorage", config: Config) -> "Rebuilt":
    from harmonia_py.wiring.pushing import PushNode  # noqa: PLC0415  # as above

    for text, table in config.caches.items():
        with suppress(CacheExists):
            name, now = CacheName.parse(text), storage.now()
            await storage.catalog.caches.create(name, table.settings, declared=True, now=now)
    total = sum([info.size async for info in storage.blobs.list()])
    async with PushNode.of(config, storage.catalog, Metrics.alone()) as node:
        with progress_of(messages(), "reading", total) as report:
            return await node.publishing.rebuild(report).run()


def _say(report: dict[str, Any], faults: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**report, "lost": _LOST}, indent=2))  # what a script reads
        return
    out = results()
    for name, done in report.items():
        if name != "pushed":
            out.print(f"{name}: {count(done['named'], 'file')} named")
            continue
        words = f"{name}: {count(done['caches'], 'cache')} made, {count(done['paths'], 'path')} published"
        if done["packs"]:
            words += f", {count(done['packs'], 'pack')} of chunks"
        out.print(f"{words}, {done['waiting']} wait for references, {count(done['logs'], 'log')}")
        out.print("What the files do not say, and is lost unless you have a backup of the catalog:")
        for lost in _LOST:
            out.print(hanging(out, "-", lost))
    for key, fault in faults.items():
        out.print(hanging(out, "[bold red]left out[/]", f"{key}: {fault}"))
