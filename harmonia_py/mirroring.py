"""The verbs of a mirror: `mirror` fetches ahead, `explain` says where a path would come from, and why or why not."""

import asyncio
import lzma
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.markup import escape

from harmonia_py.app import OpenCache
from harmonia_py.cache.explain import Verdict, explain_upstream
from harmonia_py.cache.kept import key_of
from harmonia_py.cache.trust import rests_on_contents
from harmonia_py.config import Config
from harmonia_py.errors import ConfigError, FormatError, HarmoniaError
from harmonia_py.keeping import open_cache, parse_path, progress_bar
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import HashPart, StoreDir

# `store-paths.xz` of a channel is some megabytes; a file of another kind may decompress without end.
_MAX_LIST_BYTES: Final = 256 * 1024 * 1024


def mirror(config: Config, paths: Iterable[str], *, closure: bool, store_paths: Path | None) -> int:
    """Fetch and keep store paths; exit status 1 when one could not be had."""
    return asyncio.run(_mirror(config, list(paths), closure=closure, store_paths=store_paths))


def explain(config: Config, text: str) -> int:
    """Say for one path, in plain words, which source has it; exit status 1 when it would not be served."""
    return asyncio.run(_explain(config, text))


async def _mirror(config: Config, paths: list[str], *, closure: bool, store_paths: Path | None) -> int:
    wanted = {_hash_part(path, config.store_dir) for path in paths}
    if store_paths is not None:
        wanted.update(await asyncio.to_thread(_read_list, store_paths, config.store_dir))
    console = Console(stderr=True, soft_wrap=True)
    async with open_cache(config) as opened:
        if opened.mirror is None or opened.mirrored is None:
            raise ConfigError(
                "no upstream is configured, or nowhere to keep what it has: see [[upstream]] and [mirror]"
            )
        ahead = _Ahead(opened, console, config.mirror.downloads, closure=closure)
        await ahead.fetch(wanted)
        added = ""
        if opened.importing is not None:
            await opened.importing.idle()
            added = f", {opened.importing.counters.imported.value:.0f} added to the local store"
    console.print(f"{ahead.kept} store paths kept{added}, {len(ahead.failures)} failed")
    for failure in ahead.failures:
        console.print(f"[bold red]failed[/]  {failure}", highlight=False)
    return 1 if ahead.failures else 0


class _Ahead:
    """Fetches paths, and what they refer to, so many at once. What is kept already costs a look."""

    def __init__(self, opened: OpenCache, console: Console, at_once: int, *, closure: bool) -> None:
        assert opened.mirror is not None
        self.kept = 0
        self.failures: list[str] = []
        self._mirror = opened.mirror
        self._closure = closure
        self._progress = progress_bar(console)
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
        narinfo = await self._mirror.narinfo(hash_part)
        if narinfo is not None:
            self._total += narinfo.file_size or narinfo.path_info.nar_size
            self._progress.update(self._task, total=self._total)
        return await self._mirror.keep(hash_part, lambda count: self._progress.advance(self._task, count))


def _read_list(file: Path, store_dir: StoreDir) -> set[HashPart]:
    """The paths in a file with one a line, as it is or packed with xz."""
    try:
        with lzma.open(file) if file.suffix == ".xz" else file.open("rb") as stream:
            data = stream.read(_MAX_LIST_BYTES)
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise ConfigError(f"{file}: {error}") from None
    try:
        return {_hash_part(line, store_dir) for line in data.decode().splitlines() if line}
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a list of store paths") from None


def _hash_part(text: str, store_dir: StoreDir) -> HashPart:
    with suppress(FormatError):
        return HashPart.parse(text)
    return parse_path(text, store_dir).hash_part


class _Answer(NamedTuple):
    """What a source says in words, whether it has the path, and whether we sign what it says of it."""

    words: str
    good: bool
    signed: bool = True


async def _explain(config: Config, text: str) -> int:
    hash_part = _hash_part(text, config.store_dir)
    async with open_cache(config) as opened:
        out = Console(highlight=False, soft_wrap=True, file=sys.stdout)
        out.print(f"[bold]{hash_part}[/]")
        local, kept = await _local(opened, hash_part), await _kept(opened, config, hash_part)
        # In the order in which they are asked.
        answers = [local, kept, *await _upstreams(opened, config, hash_part)]
        for answer in answers:
            out.print("  [green]yes[/]" if answer.good else "  [red]no [/]", escape(answer.words))
    served = next((answer for answer in answers if answer.good), None)
    out.print("It would not be served." if served is None else f"It would be served, {_signed(config, served)}.")
    return 1 if served is None else 0


def _signed(config: Config, served: _Answer) -> str:
    if not served.signed:
        return "not signed by us: its content address is the proof, and no signature covers that"
    count = len(config.key_files)
    if not count:
        return "not signed by us"
    return "signed by us with one key" if count == 1 else f"signed by us with {count} keys"


async def _local(opened: OpenCache, hash_part: HashPart) -> _Answer:
    if opened.local is None:
        return _Answer("local store: there is none", good=False)
    try:
        narinfo = await opened.local.narinfo(hash_part)
    except HarmoniaError as error:
        return _Answer(f"local store: cannot tell: {error}", good=False)
    if narinfo is None:
        return _Answer("local store: does not have it", good=False)
    info = narinfo.path_info
    names = ", ".join(signature.key_name for signature in info.signatures) or "nobody"
    return _Answer(f"local store: has {info.store_path}, signed by {names}", good=True)


async def _upstreams(opened: OpenCache, config: Config, hash_part: HashPart) -> list[_Answer]:
    if opened.panel is None:
        return []
    if config.mirror.offline:
        return [_Answer("upstreams: none is asked (mirror.offline)", good=False)]
    ordered = sorted(opened.panel.all, key=lambda asked: asked.upstream.priority)
    verdicts: list[Verdict] = await asyncio.gather(
        *[explain_upstream(asked.upstream, hash_part, config.store_dir) for asked in ordered]
    )
    return [
        _Answer(f"upstream {verdict.upstream}: {verdict.words}", verdict.good, verdict.signed) for verdict in verdicts
    ]


async def _kept(opened: OpenCache, config: Config, hash_part: HashPart) -> _Answer:
    if opened.mirror is None:
        return _Answer("kept: nothing, as there is no upstream", good=False)
    entry = await opened.mirror.memory.find(hash_part)
    if entry is None or entry.facts is None:
        return _Answer("kept: nothing", good=False)
    age = int(time.time() - entry.fetched)
    words = f"kept: {key_of(entry.url)}, {entry.facts.file_size} bytes, from upstream {entry.upstream}, {age} s ago"
    return _Answer(words, good=True, signed=not rests_on_contents(entry.narinfo.path_info, config.store_dir))
