"""The report: text for people, printed as the findings come, or one JSON document for scripts."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harmonia_py.commands.doctor.finding import Finding, Verdict, one_line

_STYLES: Final = {Verdict.OK: "green", Verdict.WARNING: "bold yellow", Verdict.FAILURE: "bold red"}
_VERDICT_WIDTH: Final = 7
_CHECK_WIDTH: Final = 16


class Report:
    """Takes findings one by one. As text it prints each at once; as JSON it prints all of them at the end.

    Args:
        as_json: JSON instead of text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False, soft_wrap=True)
        self._title = ""
        self._found: list[tuple[str, Finding]] = []

    def section(self, title: str) -> None:
        """Begin another group of findings."""
        self._title = title
        if not self._as_json:
            self._console.print()
            self._console.print(Text(one_line(title), style="bold"))

    def add(self, findings: Sequence[Finding]) -> None:
        """Add findings to the group that was begun last."""
        for finding in map(_printable, findings):
            self._found.append((self._title, finding))
            if not self._as_json:
                # In a file or a pipe, lines are not broken: grep wants them whole.
                self._console.print(_row(finding) if self._console.is_terminal else _plain(finding))

    def looking_at(self, name: str) -> AbstractContextManager[object]:
        """Name on a terminal the check that is running, for as long as the context lasts."""
        if self._as_json or not self._console.is_terminal:
            return nullcontext()
        return self._console.status(f"[dim]{name} …[/]", spinner="dots", spinner_style="dim")

    def finish(self) -> int:
        """Print how many findings of each verdict there are, and return the exit status."""
        counts = Counter(finding.verdict for _, finding in self._found)
        if self._as_json:
            print(json.dumps(_as_json(self._found, counts), indent=2, ensure_ascii=False))
        else:
            self._console.print()
            self._console.print(_sum(counts))
        return 1 if counts[Verdict.FAILURE] else 0


def _printable(finding: Finding) -> Finding:
    """Each text of a finding on one line, without characters that a terminal takes for commands."""
    remedy = None if finding.remedy is None else one_line(finding.remedy)
    return Finding(one_line(finding.check), finding.verdict, one_line(finding.what), remedy)


def _row(finding: Finding) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_VERDICT_WIDTH + 1, no_wrap=True)
    grid.add_column(width=_CHECK_WIDTH, overflow="fold")
    grid.add_column(overflow="fold")
    style = _STYLES[finding.verdict]
    grid.add_row(Text(f" {finding.verdict.value}", style), Text(finding.check), Text(finding.what))
    if finding.remedy is not None:
        grid.add_row("", "", Text(f"→ {finding.remedy}", "cyan"))
    return grid


def _plain(finding: Finding) -> Text:
    line = f" {finding.verdict.value:{_VERDICT_WIDTH}} {finding.check:{_CHECK_WIDTH}} {finding.what}"
    if finding.remedy is not None:
        line += f"\n {'':{_VERDICT_WIDTH}} {'':{_CHECK_WIDTH}} → {finding.remedy}"
    return Text(line)


def _sum(counts: Counter[Verdict]) -> Text:
    words: list[tuple[str, str]] = []
    for verdict, plural in ((Verdict.FAILURE, "failures"), (Verdict.WARNING, "warnings"), (Verdict.OK, "ok")):
        number = counts[verdict]
        noun = verdict.value if number == 1 else plural
        words += [(f"{number or 'no'} {noun}", _STYLES[verdict] if number else "dim"), (", ", "")]
    return Text.assemble(*words[:-1])


def _as_json(found: Sequence[tuple[str, Finding]], counts: Counter[Verdict]) -> dict[str, object]:
    return {
        "ok": not counts[Verdict.FAILURE],
        "counts": {verdict.value: counts[verdict] for verdict in Verdict},
        "findings": [{"section": title} | msgspec.to_builtins(finding) for title, finding in found],
    }
