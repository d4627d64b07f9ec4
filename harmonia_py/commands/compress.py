"""`harmonia-py compress`: the zstd files of store paths, made ahead of the first download."""

import argparse
import asyncio
from typing import Final

from harmonia_py.commands.shared.node import open_node
from harmonia_py.commands.shared.options import add_config, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.path_arguments import parse_store_path
from harmonia_py.commands.shared.progress import add_json, count, messages, print_failures, print_json, progress_of
from harmonia_py.config.settings import Config
from harmonia_py.contents.compressed import CompressedNars
from harmonia_py.errors import ConfigError, HarmoniaError
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.runtime.side_by_side import side_by_side
from harmonia_py.wiring.node import Node

# Path infos are asked for with so many questions at once; the daemon answers one per connection.
_QUESTIONS: Final = 8


def add_arguments(parser: Parser) -> None:
    """The arguments: the store paths."""
    parser.describe(
        """
        Make and keep the compressed files of store paths that have none, so that no client waits for it. A running
        server offers them from then on. Exit status 1: one could not be made.""",
        ("harmonia-py compress --closure ./result", "what was just built, and all that it needs"),
        ("harmonia-py compress --all", "every path of the store"),
    )
    which = parser.add_argument_group("which store paths")
    which.add_argument("paths", metavar="PATH", nargs="*", help="a store path, or a link to one such as ./result")
    which.add_argument("--closure", action="store_true", help="the closures of the paths as well")
    which.add_argument("--all", action="store_true", dest="everything", help="every valid path of the store")
    add_json(parser)
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Make and keep the files that are missing; exit status 1 when one could not be made."""
    if bool(options.paths) == options.everything:
        options.usage("name store paths, or --all")
    return asyncio.run(_compress(load(options), options))


async def _compress(config: Config, options: argparse.Namespace) -> int:
    console = messages()
    async with open_node(config) as node:
        compressed = node.compressed
        if compressed is None or node.compressed_files is None or node.compressed_files.intake.storage.blobs is None:
            raise ConfigError("no store here, or nowhere to keep its NARs: see compression and cache.directory")
        narinfos = await _narinfos(node, compressed, config.store_dir, options)
        missing = [narinfo for narinfo in narinfos if narinfo.file_size is None]
        console.print(f"{count(len(narinfos), 'store path')}, {len(missing)} to compress")
        failures = await _keep_all(compressed, missing, config.cache.jobs) if missing else []
    if missing:
        console.print(f"{len(missing) - len(failures)} compressed, {len(failures)} failed")
    print_failures(failures)
    if options.as_json:
        print_json({"storePaths": len(narinfos), "compressed": len(missing) - len(failures), "failures": failures})
    return 1 if failures else 0


async def _keep_all(compressed: CompressedNars, missing: list[NarInfo], jobs: int) -> list[str]:
    failures: list[str] = []
    total = sum(narinfo.path_info.nar_size for narinfo in missing)
    with progress_of("compressing", total) as report:

        async def keep(narinfo: NarInfo) -> None:
            info = narinfo.path_info
            try:
                if not await compressed.keep(NarUrl(info.store_path.hash_part, info.nar_hash, "zstd")):
                    failures.append(f"{info.store_path}: has left the store")
            except HarmoniaError as error:
                failures.append(f"{info.store_path}: {error}")
            report(info.nar_size)

        await side_by_side(keep, missing, at_once=jobs)
    return failures


async def _narinfos(
    node: Node, compressed: CompressedNars, store_dir: StoreDir, options: argparse.Namespace
) -> list[NarInfo]:
    """The narinfos of the wanted paths, in no certain order."""
    if options.everything:
        assert node.metadata is not None
        pending = set(await node.metadata.all_paths())
    else:
        pending = {parse_store_path(path, store_dir) for path in options.paths}
    named = set(pending)
    found: dict[StorePath, NarInfo] = {}
    asked: set[StorePath] = set()

    async def ask(store_path: StorePath) -> None:
        answer = await compressed.narinfo(store_path.hash_part)
        if answer is not None and answer.narinfo.path_info.store_path == store_path:
            found[store_path] = answer.narinfo
        elif store_path in named and not options.everything:
            raise ConfigError(f"{store_dir}/{store_path}: is not valid in this store")

    while pending:
        await side_by_side(ask, sorted(pending), at_once=_QUESTIONS)
        asked |= pending
        references = {one for path in pending & found.keys() for one in found[path].path_info.references}
        pending = (references if options.closure else set()) - asked
    return list(found.values())
