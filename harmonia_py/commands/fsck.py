"""`harmonia-py fsck`: catalogs and kept files held against each other."""

import argparse
import asyncio
import json
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from harmonia_py.catalog.fsck import Fsck
from harmonia_py.catalog.fsck_findings import Fault, Finding
from harmonia_py.catalog.strays import unknown_path
from harmonia_py.commands.options import add_config, load
from harmonia_py.commands.parser import Parser
from harmonia_py.commands.progress import count, hanging, messages, progress_of, results
from harmonia_py.commands.rebuilding import rebuild
from harmonia_py.config.settings import Config
from harmonia_py.errors import StorageError

if TYPE_CHECKING:
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
        ("harmonia-py fsck --json | jq -r 'select(.fault == \"missing\") | .key'", "one object a line"),
    )
    parser.add_argument("--hashes", action="store_true", help="read every file, and hold it against its hash")
    parser.add_argument("--repair", action="store_true", help="put right what can be, and hide what is lost")
    parser.add_argument(
        "--rebuild", action="store_true", help="fill a catalog that was lost, from the files; every NAR is read"
    )
    parser.add_argument("--json", action="store_true", help="one object a line, the sums last")
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Look; exit status 1 when something is left that is not as it should be."""
    config = load(options)
    if options.rebuild:
        return asyncio.run(rebuild(config, as_json=options.json))
    return asyncio.run(_fsck(config, hashes=options.hashes, repair=options.repair, as_json=options.json))


async def _fsck(config: Config, *, hashes: bool, repair: bool, as_json: bool) -> int:
    from harmonia_py.wiring.storages import open_storage, storages_of  # noqa: PLC0415  # it imports the database

    report = _Report(as_json=as_json)
    for place in await asyncio.to_thread(storages_of, config):
        name, directory = place.name, place.directory
        if not await asyncio.to_thread(place.has_catalog):
            report.no_catalog(name, str(directory), is_used=await asyncio.to_thread(directory.exists))
            continue
        try:
            async with open_storage(config, place) as storage:
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
    with progress_of(messages(), work, health.size) as advance:
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
        self.left = self.left or finding.done is None
        if self._as_json:
            word = finding.fault.name.lower()
            self._line(storage=storage, fault=word, key=finding.key, detail=finding.detail, done=finding.done)
            return
        words = "; ".join(part for part in (f"{storage}: {finding.key}", finding.detail, finding.done) if part)
        self._out.print(hanging(self._out, _MARKS[finding.fault], words))

    def no_catalog(self, storage: str, directory: str, *, is_used: bool) -> None:
        """A storage without a catalog: nothing was kept, or the catalog is lost."""
        if is_used and storage == "pushed":
            self.left = True
            if self._as_json:
                self._line(storage=storage, fault="no_catalog", key=directory, detail="", done=None)
            else:
                self._out.print(
                    f"{directory} has files and no catalog: stop the server, and `fsck --rebuild` makes one"
                )

    def unreadable(self, storage: str, directory: str, error: StorageError) -> None:
        """A storage that cannot be looked at, or not to its end."""
        self.left = True
        if self._as_json:
            self._line(storage=storage, fault="unreadable", key=directory, detail=str(error), done=None)
        else:
            self._out.print(hanging(self._out, "[bold red]unreadable[/]", f"{storage}: {directory}; {error}"))

    def end(self) -> None:
        """The sums, and what each kind of finding means."""
        if self._as_json:
            faults = {fault.name.lower(): number for fault, number in self._counts.items()}
            self._line(files=self.files, faults=faults, repaired=self._done)
            return
        found = sum(self._counts.values())
        self._out.print(f"{count(self.files, 'file')} looked at, {found} not as it should be, {self._done} put right")
        for fault in self._counts:
            self._out.print(hanging(self._out, f"{_MARKS[fault]}:", fault.value))
        if found > self._done:
            self._out.print("`harmonia-py fsck --repair` puts right what can be; what is lost has to be pushed again.")

    def _line(self, **values: Any) -> None:
        print(json.dumps(values))  # what a script reads
