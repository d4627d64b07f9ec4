"""`harmonia-py verify`: every kept file read again."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from harmonia_py.commands.shared.node import open_node
from harmonia_py.commands.shared.options import add_config, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.progress import add_json, hanging, print_json, progress_of, results
from harmonia_py.config.settings import Config
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import MISSING, Rotten, check_file
from harmonia_py.contents.kept_files import unit_of
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.side_by_side import side_by_side
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.wiring.node import Node


def add_arguments(parser: Parser) -> None:
    """The options: the form of the report."""
    parser.describe(
        """
        Read every kept file from the disk again and hold it against its hash, except what is in chunks
        (`fsck --hashes` reads that too). What is rotten is removed, and fetched
        again where an upstream has it; store paths that are not what the store says are listed. It may run beside the
        server. Exit status 1: something was wrong.""",
        ("harmonia-py verify -c /etc/harmonia.toml", "read everything, and say what was wrong"),
        ("harmonia-py verify --json | jq .rotten", "the same for a script"),
    )
    add_json(parser)
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Remove rotten files, list NARs that did not match; exit status 1 when there is any."""
    return asyncio.run(_verify(load(options), as_json=options.as_json))


async def _verify(config: Config, *, as_json: bool) -> int:
    rotten: list[Rotten] = []
    count = 0
    for directory in dict.fromkeys([config.cache.directory or ".", config.mirror.directory or config.cache.directory]):
        async with DiskBlobs(Path(directory or ".")) as blobs:
            found, read = await _read_all(blobs, config.cache.jobs)
        rotten += found
        count += read
    async with open_node(config) as node:
        # A narinfo whose NAR is gone leads nowhere.
        for files in {files for files in (node.compressed_files, node.mirrored_files) if files is not None}:
            for one in rotten:
                await files.kept.forget(one.key)
        damaged = await node.compressed.mismatches() if node.compressed is not None else []
        again = [one.key for one in rotten if await _fetch_again(node, one.key)]
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
        print_json(report)
        return 1 if rotten or damaged else 0
    out = results()
    out.print(f"{count} kept files, {len(rotten)} rotten and removed")
    for one in rotten:
        words = f"{one.key}: {one.reason}{'; fetched again' if one.key in again else ''}"
        out.print(hanging(out, "[bold red]rotten [/]", words))
    for other in damaged:
        out.print(f"[bold red]damaged[/]  {config.store_dir}/{other.store_path}")
        out.print(f"         its NarHash is {other.actual or 'that of a longer NAR'}, the store says {other.expected}")
    if damaged:
        out.print("`nix-store --repair-path PATH` may help; downloads of these paths are cut until then.")
    return 1 if rotten or damaged else 0


async def _fetch_again(node: Node, key: BlobKey) -> bool:
    """Whether an upstream had a rotten file, so that it is kept again."""
    if node.mirror is None:
        return False
    try:
        return await node.mirror.fetch(HashPart.parse(unit_of(key)), lambda _: None) is not None
    except HarmoniaError:
        return False


async def _read_all(blobs: DiskBlobs, jobs: int) -> tuple[list[Rotten], int]:
    # A NAR in chunks is read by `fsck --hashes`: the catalog says of which it is made. Other files in directories of
    # their own are not ours, such as a program that is unpacked there.
    infos = [info async for info in blobs.list() if "/" not in info.key]
    rotten: list[Rotten] = []
    unopened: set[BlobKey] = set()
    with progress_of("reading", sum(info.size for info in infos)) as report:

        async def check(key: BlobKey) -> None:
            blob = await blobs.open(key)
            if blob is None:
                unopened.add(key)
                return
            with blob:
                pieces = blob.pieces(0, None)
                found = await asyncio.to_thread(check_file, key, blob.metadata, pieces, report)
            if found is not None:
                rotten.append(found)
                await blobs.delete(found.key)

        await side_by_side(check, [info.key for info in infos], at_once=jobs)
    if unopened:
        # A file that is still there was not evicted: its time shows that it was changed, so it is not opened.
        for key in unopened & {info.key async for info in blobs.list()}:
            rotten.append(Rotten(key, MISSING))
            await blobs.delete(key)
    return sorted(rotten, key=lambda one: one.key), len(infos)
