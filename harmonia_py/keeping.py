"""The verbs that work on kept NARs: `compress` makes them ahead, `verify` reads them again."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from harmonia_py.app import OpenCache
from harmonia_py.cache.blobs import BlobKey
from harmonia_py.cache.compressed import CompressedNars
from harmonia_py.cache.kept import unit_of
from harmonia_py.cache.remembered import narinfo_key
from harmonia_py.cache.verify import Rotten, check_file
from harmonia_py.config import Config
from harmonia_py.errors import ConfigError, FormatError, HarmoniaError
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.slices import read_slice
from harmonia_py.store_choice import choose_store

# They are a few facts each, and no bytes that could rot.
_NO_FILES: Final = (".narinfo", ".doi", ".mismatch")
# Path infos are asked for with so many questions at once; the daemon answers one per connection.
_QUESTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which store paths: those named, with their closures if `closure`; or every valid one if `everything`."""

    paths: Sequence[str]
    closure: bool
    everything: bool


def compress(config: Config, wanted: Wanted) -> int:
    """Make and keep the zstd files of store paths that have none; exit status 1 when one could not be made."""
    return asyncio.run(_compress(config, wanted))


def verify(config: Config, *, as_json: bool) -> int:
    """Read every kept file, remove what is rotten, list NARs that did not match; exit status 1 when there is any."""
    return asyncio.run(_verify(config, as_json=as_json))


async def _compress(config: Config, wanted: Wanted) -> int:
    console = Console(stderr=True, soft_wrap=True)
    async with open_cache(config) as opened:
        compressed = opened.compressed
        if compressed is None or opened.blobs is None:
            raise ConfigError("no store here, or nowhere to keep its NARs: see compression and cache.directory")
        narinfos = await _narinfos(opened, compressed, config.store_dir, wanted)
        missing = [narinfo for narinfo in narinfos if narinfo.file_size is None]
        console.print(f"{len(narinfos)} store paths, {len(missing)} to compress")
        failures = await _keep_all(compressed, missing, config.cache.jobs, console)
    for failure in failures:
        console.print(f"[bold red]failed[/]  {failure}", highlight=False)
    return 1 if failures else 0


async def _keep_all(compressed: CompressedNars, missing: list[NarInfo], jobs: int, console: Console) -> list[str]:
    failures: list[str] = []
    turns = asyncio.Semaphore(jobs)
    with progress_bar(console) as progress:
        task = progress.add_task("compressing", total=sum(narinfo.path_info.nar_size for narinfo in missing))

        async def keep(narinfo: NarInfo) -> None:
            info = narinfo.path_info
            async with turns:
                try:
                    if not await compressed.keep(NarUrl(info.store_path.hash_part, info.nar_hash, "zstd")):
                        failures.append(f"{info.store_path}: has left the store")
                except HarmoniaError as error:
                    failures.append(f"{info.store_path}: {error}")
                progress.advance(task, info.nar_size)

        async with asyncio.TaskGroup() as group:
            for narinfo in missing:
                group.create_task(keep(narinfo))
    return failures


async def _narinfos(
    opened: OpenCache, compressed: CompressedNars, store_dir: StoreDir, wanted: Wanted
) -> list[NarInfo]:
    """The narinfos of what is wanted, references before those that refer to them only by chance."""
    if wanted.everything:
        assert opened.metadata is not None
        pending = set(await opened.metadata.all_paths())
    else:
        pending = {parse_path(path, store_dir) for path in wanted.paths}
    named = set(pending)
    found: dict[StorePath, NarInfo] = {}
    turns = asyncio.Semaphore(_QUESTIONS)

    async def ask(store_path: StorePath) -> NarInfo | None:
        async with turns:
            return await compressed.narinfo(store_path.hash_part)

    while pending:
        asked = sorted(pending)
        answers = await asyncio.gather(*map(ask, asked))
        for store_path, narinfo in zip(asked, answers, strict=True):
            if narinfo is None or narinfo.path_info.store_path != store_path:
                if store_path in named and not wanted.everything:
                    raise ConfigError(f"{store_dir}/{store_path}: is not valid in this store")
                continue
            found[store_path] = narinfo
        references = {one for narinfo in answers if narinfo is not None for one in narinfo.path_info.references}
        pending = (references if wanted.closure else set()) - found.keys() - set(asked)
    return list(found.values())


def parse_path(text: str, store_dir: StoreDir) -> StorePath:
    """A store path from its full path, something inside it, its base name, or a link to it such as `./result`."""
    try:
        return StorePath.parse(text)
    except FormatError:
        path = text if text.startswith(f"{store_dir}/") else os.path.realpath(text)
    try:
        return store_dir.parse_path("/".join(path.split("/")[: store_dir.count("/") + 2]))
    except FormatError:
        raise ConfigError(f"{text}: is not, and does not lead to, a path in {store_dir}") from None


async def _verify(config: Config, *, as_json: bool) -> int:
    console = Console(stderr=True, soft_wrap=True)
    rotten: list[Rotten] = []
    count = 0
    for directory in dict.fromkeys([config.cache.directory or ".", config.mirror.directory or config.cache.directory]):
        async with DiskBlobs(Path(directory or ".")) as blobs:
            found, files = await _read_all(blobs, config.cache.jobs, console)
        rotten += found
        count += files
    async with open_cache(config) as opened:
        damaged = await opened.compressed.mismatches() if opened.compressed is not None else []
        again = [one.key for one in rotten if await _fetch_again(opened, one.key)]
    if as_json:
        report: dict[str, Any] = {
            "files": count,
            "rotten": [asdict(one) | {"fetchedAgain": one.key in again} for one in rotten],
            "damaged": [
                {
                    "storePath": one.store_path,
                    "expected": str(one.expected),
                    "actual": str(one.actual) if one.actual else None,
                }
                for one in damaged
            ],
        }
        print(json.dumps(report, indent=2))  # noqa: T201  # what a script reads
        return 1 if rotten or damaged else 0
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"{count} kept files, {len(rotten)} rotten and removed")
    for one in rotten:
        out.print(f"[bold red]rotten[/]   {one.key}: {one.reason}{'; fetched again' if one.key in again else ''}")
    for other in damaged:
        out.print(f"[bold red]damaged[/]  {config.store_dir}/{other.store_path}")
        out.print(f"         its NarHash is {other.actual or 'that of a longer NAR'}, the store says {other.expected}")
    if damaged:
        out.print("`nix-store --repair-path PATH` may help; downloads of these paths are cut until then.")
    return 1 if rotten or damaged else 0


async def _fetch_again(opened: OpenCache, key: BlobKey) -> bool:
    """Whether an upstream had what was rotten, and it is kept again."""
    if opened.mirror is None:
        return False
    try:
        return await opened.mirror.keep(HashPart.parse(unit_of(key)), lambda _: None) is not None
    except HarmoniaError:
        return False


async def _read_all(blobs: DiskBlobs, jobs: int, console: Console) -> tuple[list[Rotten], int]:
    infos = [info async for info in blobs.list() if not info.key.endswith(_NO_FILES)]
    rotten: list[Rotten] = []
    turns = asyncio.Semaphore(jobs)
    with progress_bar(console) as progress:
        task = progress.add_task("reading", total=sum(info.size for info in infos))

        async def check(key: BlobKey) -> None:
            async with turns:
                blob = await blobs.open(key)
                if blob is None:
                    return
                with blob:
                    report = partial(progress.advance, task)
                    pieces = blob.pieces(0, None)
                    found = await asyncio.to_thread(check_file, key, blob.metadata, pieces, read_slice, report)
            if found is not None:
                rotten.append(found)
                # A narinfo whose NAR is gone leads nowhere.
                with suppress(FormatError):
                    await blobs.delete(narinfo_key(HashPart.parse(unit_of(found.key))))
                await blobs.delete(found.key)

        async with asyncio.TaskGroup() as group:
            for info in infos:
                group.create_task(check(info.key))
    return sorted(rotten, key=lambda one: one.key), len(infos)


@asynccontextmanager
async def open_cache(config: Config) -> AsyncIterator[OpenCache]:
    """The cache that a configuration describes, for a verb: it signs nothing and evicts nothing."""
    choice = await asyncio.to_thread(choose_store, config)
    opened = await OpenCache.open(config, [], choice, metrics=Metrics.alone(), housekeeping=False)
    try:
        yield opened
    finally:
        await opened.aclose()


def progress_bar(console: Console) -> Progress:
    """A bar on a terminal, and nothing where nobody looks."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
