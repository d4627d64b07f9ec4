"""The output of a command that takes a while: a bar and lines for people, `--json` for programs."""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

# What `pushing 10008 paths`, sizes, speed and time take, and a bar of a dozen characters.
_WIDE: Final = 70


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`: `options.as_json`."""
    parser.add_argument("--json", action="store_true", dest="as_json", help="print a report that scripts can read")


def print_json(report: Mapping[str, Any]) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(report, indent=2))  # what a script reads


def messages() -> Console:
    """Standard error, where progress and failures are said: standard output has the result alone."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def print_failures(failures: Iterable[str]) -> None:
    """A line for each, on standard error."""
    console = messages()
    for failure in failures:
        console.print(hanging(console, "[bold red]failed[/]", failure))


def results() -> Console:
    """Standard output; lines are not broken, so that `grep` finds them whole."""
    return Console(soft_wrap=True, highlight=False)


def count(number: int, noun: str) -> str:
    """`1 store path`, `2 store paths`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def hanging(console: Console, mark: str, text: str) -> Table | Text:
    """`text` behind `mark` (which is markup), its further lines below its first; one line without a terminal."""
    head = Text.from_markup(f"  {mark}")
    if not console.is_terminal:
        return Text.assemble(head, " ", text)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=head.cell_len, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(head, Text(text))
    return grid


class _Size(DownloadColumn):
    """The bytes so far and in all; empty while the total is unknown."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Speed(TransferSpeedColumn):
    """Bytes a second; nothing while none can be told."""

    def render(self, task: Task) -> Text:
        return Text() if task.finished_speed is None and task.speed is None else super().render(task)


def progress_bar(console: Console) -> Progress:
    """A bar of bytes on a terminal, which goes when it is done, and nothing elsewhere.

    A narrow terminal has no room for a bar beside the figures: a wheel turns there.
    """
    text, size = TextColumn("{task.description}"), _Size(binary_units=True)
    wide = console.width >= _WIDE
    return Progress(
        *((text, BarColumn(), size, _Speed(), TimeRemainingColumn()) if wide else (SpinnerColumn(), text, size)),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


@contextmanager
def progress_of(work: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar of one work, which is told of bytes, or other units, that are done; `total` is None for not known."""
    with progress_bar(messages()) as progress:
        yield partial(progress.advance, progress.add_task(work, total=total))
