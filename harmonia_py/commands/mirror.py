"""`harmonia-py mirror`: store paths fetched from upstreams ahead, and kept."""

import argparse
import asyncio
from collections.abc import Iterable
from pathlib import Path

from harmonia_py.commands.shared.node import open_node
from harmonia_py.commands.shared.options import add_config, add_upstream, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.path_arguments import parse_hash_part, read_hash_parts
from harmonia_py.commands.shared.progress import add_json, count, messages, print_failures, print_json, progress_bar
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError, HarmoniaError
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.wiring.node import Node


def add_arguments(parser: Parser) -> None:
    """The arguments: the store paths, or a list of them."""
    parser.describe(
        """
        Fetch store paths from the upstreams and keep them, as if clients had asked for them. What is kept already costs
        a look. Exit status 1: one could not be had.""",
        ("harmonia-py mirror --closure /nix/store/…-hello-2.12.1", "a path and all that it needs"),
        ("harmonia-py mirror --store-paths store-paths.xz", "everything that a release of a channel lists"),
    )
    which = parser.add_argument_group("which store paths")
    which.add_argument("paths", metavar="PATH", nargs="*", help="a store path, a hash part, or a link such as ./result")
    which.add_argument("--closure", action="store_true", help="the closures of the paths as well")
    which.add_argument(
        "--store-paths",
        metavar="FILE",
        type=Path,
        help="those in a file, one a line, such as a channel's store-paths.xz",
    )
    add_upstream(parser)
    add_json(parser)
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Fetch and keep them; exit status 1 when one could not be had."""
    if not options.paths and options.store_paths is None:
        options.usage("name store paths, or --store-paths FILE")
    return asyncio.run(_mirror(load(options), options))


async def _mirror(config: Config, options: argparse.Namespace) -> int:
    wanted = {parse_hash_part(path, config.store_dir) for path in options.paths}
    if options.store_paths is not None:
        wanted.update(await asyncio.to_thread(read_hash_parts, options.store_paths, config.store_dir))
    async with open_node(config) as node:
        if node.mirror is None or node.mirrored_files is None or node.mirrored_files.intake.storage.blobs is None:
            raise ConfigError(
                "no upstream is configured, or nowhere to keep what it has: see [[upstream]] and [mirror]"
            )
        ahead = _Ahead(node, config.mirror.downloads, closure=options.closure)
        await ahead.fetch(wanted)
        imported: int | None = None
        if node.importing is not None:
            await node.importing.idle()
            imported = int(node.importing.counters.imported.value)
    added = "" if imported is None else f", {imported} added to the local store"
    messages().print(f"{count(ahead.kept, 'store path')} kept{added}, {len(ahead.failures)} failed")
    print_failures(ahead.failures)
    if options.as_json:
        print_json({"kept": ahead.kept, "imported": imported, "failures": ahead.failures})
    return 1 if ahead.failures else 0


class _Ahead:
    """Fetches paths, and what they refer to, so many at once. What is kept already costs a look."""

    def __init__(self, node: Node, at_once: int, *, closure: bool) -> None:
        assert node.mirror is not None
        self.kept = 0
        self.failures: list[str] = []
        self._mirror = node.mirror
        self._closure = closure
        self._progress = progress_bar(messages())
        self._task = self._progress.add_task("mirroring", total=0)
        self._at_once = at_once
        self._total = 0
        self._known: set[HashPart] = set()

    async def fetch(self, wanted: Iterable[HashPart]) -> None:
        """Return when nothing is left to do."""
        queue: asyncio.Queue[HashPart] = asyncio.Queue()
        self._add(queue, sorted(wanted))
        with self._progress:
            workers = [asyncio.create_task(self._work(queue)) for _ in range(self._at_once)]
            try:
                await queue.join()
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _add(self, queue: "asyncio.Queue[HashPart]", wanted: Iterable[HashPart]) -> None:
        for hash_part in wanted:
            if hash_part not in self._known:
                self._known.add(hash_part)
                queue.put_nowait(hash_part)

    async def _work(self, queue: "asyncio.Queue[HashPart]") -> None:
        while True:
            hash_part = await queue.get()
            try:
                narinfo = await self._keep(hash_part)
            except HarmoniaError as error:
                self.failures.append(f"{hash_part}: {error}")
            else:
                if narinfo is None:
                    self.failures.append(f"{hash_part}: no upstream has it")
                else:
                    self.kept += 1
                    if self._closure:
                        self._add(queue, [reference.hash_part for reference in narinfo.path_info.references])
            finally:
                queue.task_done()

    async def _keep(self, hash_part: HashPart) -> NarInfo | None:
        found = await self._mirror.narinfo(hash_part)
        if found is not None:
            self._total += found.narinfo.file_size or found.narinfo.path_info.nar_size
            self._progress.update(self._task, total=self._total)
        return await self._mirror.fetch(hash_part, lambda count: self._progress.advance(self._task, count))
