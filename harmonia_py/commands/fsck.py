"""`harmonia-py fsck`: catalogs and kept files held against each other."""

import argparse
import asyncio
import json
from collections import Counter
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import asdict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheExists
from harmonia_py.catalog.fsck import Fsck
from harmonia_py.catalog.fsck_findings import Fault, Finding
from harmonia_py.catalog.strays import unknown_path
from harmonia_py.commands.shared.options import add_config, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.progress import count, hanging, messages, print_json, progress_of, results
from harmonia_py.config.settings import Config
from harmonia_py.errors import StorageError
from harmonia_py.metrics.board import Metrics

if TYPE_CHECKING:
    from harmonia_py.push.rebuilding import Rebuilt
    from harmonia_py.storage.s3.owner import Owner
    from harmonia_py.wiring.storages import OpenStorage


# A mark for each fault, and whether a client notices it.
_MARKS: Final = {
    Fault.MISSING: "[bold red]missing[/]",
    Fault.WRONG: "[bold red]wrong[/]",
    Fault.QUARANTINED: "[bold red]lost[/]",
    Fault.RIGHT_AGAIN: "[green]right again[/]",
    Fault.DOCUMENT: "[red]log or listing[/]",
    Fault.UNNAMED: "[yellow]unnamed[/]",
    Fault.TOTAL: "[yellow]sum[/]",
    Fault.NO_STATIC: "[yellow]not beside[/]",
    Fault.STALE_STATIC: "[yellow]stale[/]",
}
# What no file says.
_LOST: Final = (
    "tokens: make new ones with `token create`",
    "pins: set them again, before what they kept has not been used for too long",
    "the signing keys of caches: paths keep the signatures that they have; `key create` makes a key for the next ones",
    "settings of caches that a command made: they are private now; `cache configure` changes that",
    "realisations, which content-addressed derivations need: push their paths again",
    "the audit log, who pushed what, and when it was last used: that begins anew",
)


def add_arguments(parser: Parser) -> None:
    """The options: how far it looks, and whether it changes anything."""
    parser.describe(
        """
        Hold the catalog and the files of what is kept against each other: files that are missing or were changed, files
        that nothing names, narinfos and listings beside them. With --hashes every file is read. It may run beside the
        server, and changes nothing without --repair. Exit status 1: something is not as it should be, and was not put
        right.""",
        ("harmonia-py fsck", "look at names, sizes and times: seconds for a hundred thousand files"),
        ("harmonia-py fsck --hashes --repair", "read every file, hide what is wrong until it is pushed again"),
        ("harmonia-py fsck --rebuild", "fill a catalog that was lost, from the files"),
        ("harmonia-py fsck --rebuild --take-over", "from the bucket of a catalog that was lost"),
        ("harmonia-py fsck --json | jq -r 'select(.fault == \"missing\") | .key'", "one object a line"),
    )
    parser.add_argument("--hashes", action="store_true", help="read every file, and hold it against its hash")
    parser.add_argument("--repair", action="store_true", help="put right what can be, and hide what is lost")
    parser.add_argument(
        "--rebuild", action="store_true", help="fill a catalog that was lost, from the files; every NAR is read"
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="with --rebuild: the bucket belongs to the new catalog from now on; no server may run on the old one",
    )
    parser.add_argument("--json", action="store_true", help="one object a line, the sums last")
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Look; exit status 1 when something is left that is not as it should be."""
    if options.take_over and not options.rebuild:
        options.usage("--take-over goes with --rebuild")
    config = load(options)
    if options.rebuild:
        return asyncio.run(rebuild(config, take_over=options.take_over, as_json=options.json))
    return asyncio.run(_fsck(config, hashes=options.hashes, repair=options.repair, as_json=options.json))


async def _fsck(config: Config, *, hashes: bool, repair: bool, as_json: bool) -> int:
    from harmonia_py.wiring.storages import open_storage, storages_of  # noqa: PLC0415  # it imports what storage needs

    report = _Report(as_json=as_json)
    for place in await asyncio.to_thread(storages_of, config):
        name, directory = place.name, place.directory
        if not await asyncio.to_thread(place.has_catalog):
            if name == "pushed" and await asyncio.to_thread(directory.exists):
                report.no_catalog(name, str(directory))
            continue
        try:
            async with open_storage(config, place) as storage:
                if storage.owner is not None:
                    await storage.owner.compare()
                await _look_at(storage, report, hashes=hashes, repair=repair)
        except StorageError as error:  # the others may be in order
            report.unreadable(name, str(directory), error)
    report.end()
    return 1 if report.left else 0


async def _look_at(storage: "OpenStorage", report: "_Report", *, hashes: bool, repair: bool) -> None:
    if repair and storage.is_pushed:
        await _check_catalog(storage)
    health = await storage.catalog.file_checks.health()
    work = f"reading {storage.name}" if hashes else storage.name
    with progress_of(work, health.size) as advance:
        fsck = Fsck(
            storage.fsck_ports,
            storage.blobs,
            storage.digests,
            storage.isolate if repair else None,
            hashes=hashes,
            names_later=not storage.is_pushed,
            report=advance,
        )
        async with aclosing(fsck.run()) as findings:
            async for finding in findings:
                report.add(storage.name, finding)
    report.files += fsck.files


async def _check_catalog(storage: "OpenStorage") -> None:
    """Refuse to repair a storage whose catalog was lost: none of its files would have a row, and all would go.

    Raises:
        StorageError: it is.
    """
    ports = storage.fsck_ports
    if (await ports.index.size(None)).objects:
        return
    if (key := await unknown_path(storage.blobs, ports.repairs)) is not None:
        raise StorageError(
            f"its catalog knows no path, and {key} is there: --repair would delete all; stop the server, and "
            "`fsck --rebuild` fills the catalog"
        )


class _Report:
    """Prints the findings.

    Attributes:
        files: number of files that were looked at.
        left: whether something is not as it should be, and nothing was done about it.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.files = 0
        self.left = False
        self._as_json = as_json
        self._counts: Counter[Fault] = Counter()
        self._done = 0
        self._out: Console = results()

    def add(self, storage: str, finding: Finding) -> None:
        self._counts[finding.fault] += 1
        self._done += finding.done is not None
        words = "; ".join(part for part in (f"{storage}: {finding.key}", finding.detail, finding.done) if part)
        text = hanging(self._out, _MARKS[finding.fault], words)
        word = finding.fault.name.lower()
        self._tell(text, storage=storage, fault=word, key=finding.key, detail=finding.detail, done=finding.done)

    def no_catalog(self, storage: str, directory: str) -> None:
        """A storage that has files, and whose catalog is lost."""
        text = f"{directory} has files and no catalog: stop the server, and `fsck --rebuild` makes one"
        self._tell(text, storage=storage, fault="no_catalog", key=directory)

    def unreadable(self, storage: str, directory: str, error: StorageError) -> None:
        """A storage that cannot be looked at, or not to its end."""
        text = hanging(self._out, "[bold red]unreadable[/]", f"{storage}: {directory}; {error}")
        self._tell(text, storage=storage, fault="unreadable", key=directory, detail=str(error))

    def _tell(
        self, text: Table | Text | str, *, storage: str, fault: str, key: str, detail: str = "", done: str | None = None
    ) -> None:
        self.left = self.left or done is None
        if self._as_json:
            print(json.dumps({"storage": storage, "fault": fault, "key": key, "detail": detail, "done": done}))
        else:
            self._out.print(text)

    def end(self) -> None:
        """The sums, and what each kind of finding means."""
        if self._as_json:
            faults = {fault.name.lower(): number for fault, number in self._counts.items()}
            print(json.dumps({"files": self.files, "faults": faults, "repaired": self._done}))
            return
        found = sum(self._counts.values())
        self._out.print(f"{count(self.files, 'file')} looked at, {found} not as it should be, {self._done} put right")
        for fault in self._counts:
            self._out.print(hanging(self._out, f"{_MARKS[fault]}:", fault.value))
        if found > self._done:
            self._out.print("`harmonia-py fsck --repair` puts right what can be; what is lost has to be pushed again.")


async def rebuild(config: Config, *, take_over: bool, as_json: bool) -> int:
    """Fill the catalogs; exit status 1 when a file could not be taken.

    `take_over`: also where the bucket belongs to another catalog, which is lost.
    """
    from harmonia_py.wiring.storages import open_storage, storages_of  # noqa: PLC0415  # it imports what storage needs

    report: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for place in await asyncio.to_thread(storages_of, config):
        name = place.name
        if not await asyncio.to_thread(place.has_files):
            continue
        async with open_storage(config, place) as storage:
            if storage.owner is not None:
                await _own(storage.owner, take_over=take_over)
            if storage.is_pushed:
                done = await _pushed(storage, config)
                report[name], faults = asdict(done), done.faults
            else:
                from harmonia_py.wiring.replaceable_housekeeping import takeover_of  # noqa: PLC0415  # as above

                report[name] = {"named": await takeover_of(storage.blobs, storage.catalog, config.store_dir).run()}
    _say(report, faults, as_json=as_json)
    return 1 if faults else 0


async def _own(owner: "Owner", *, take_over: bool) -> None:
    """Have the bucket belong to the catalog that is filled from it; if `take_over`, also where it had another one."""
    if not take_over:
        await owner.check(fits=True)
    elif await owner.take_over():
        messages().print("The bucket belonged to another catalog, and belongs to this one from now on.")


async def _pushed(storage: "OpenStorage", config: Config) -> "Rebuilt":
    from harmonia_py.wiring.pushing import PushNode  # noqa: PLC0415  # as above

    for text, table in config.caches.items():
        with suppress(CacheExists):
            name, now = CacheName.parse(text), storage.now()
            await storage.catalog.caches.create(name, table.settings, declared=True, now=now)
    total = sum([info.size async for info in storage.blobs.list()])
    async with PushNode.of(config, storage.catalog, Metrics.alone()) as node:
        with progress_of("reading", total) as report:
            return await node.caches.rebuild(report).run()


def _say(report: dict[str, Any], faults: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json({**report, "lost": _LOST})
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
