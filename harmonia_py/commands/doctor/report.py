"""The report: text for people, printed as the findings come, or one JSON document for scripts."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

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
        self._sections: list[tuple[str, list[Finding]]] = []

    def section(self, title: str) -> None:
        """Begin another group of findings."""
        self._sections.append((title, []))
        if not self._as_json:
            self._console.print()
            self._console.print(Text(one_line(title), style="bold"))

    def add(self, findings: Sequence[Finding]) -> None:
        """Add findings to the group that was begun last."""
        self._sections[-1][1].extend(findings)
        if not self._as_json:
            for finding in findings:
                # In a file or a pipe, lines are not broken: grep wants them whole.
                self._console.print(_row(finding) if self._console.is_terminal else _plain(finding))

    def looking_at(self, name: str) -> AbstractContextManager[object]:
        """Name on a terminal the check that is running, for as long as the context lasts."""
        if self._as_json or not self._console.is_terminal:
            return nullcontext()
        return self._console.status(f"[dim]{name} …[/]", spinner="dots", spinner_style="dim")

    def finish(self) -> int:
        """Print how many findings of each verdict there are, and return the exit status."""
        findings = [finding for _, group in self._sections for finding in group]
        counts = Counter(finding.verdict for finding in findings)
        if self._as_json:
            print(json.dumps(_as_json(self._sections, counts), indent=2, ensure_ascii=False))
        else:
            self._console.print()
            self._console.print(_sum(counts))
        return 1 if counts[Verdict.FAILURE] else 0


def _row(finding: Finding) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_VERDICT_WIDTH + 1, no_wrap=True)
    grid.add_column(width=_CHECK_WIDTH, overflow="fold")
    grid.add_column(overflow="fold")
    style = _STYLES[finding.verdict]
    grid.add_row(Text(f" {finding.verdict.value}", style), Text(one_line(finding.check)), Text(one_line(finding.what)))
    if finding.remedy is not None:
        grid.add_row("", "", Text(f"→ {one_line(finding.remedy)}", "cyan"))
    return grid


def _plain(finding: Finding) -> Text:
    line = f" {finding.verdict.value:{_VERDICT_WIDTH}} {one_line(finding.check):{_CHECK_WIDTH}} {one_line(finding.what)}"
    if finding.remedy is not None:
        line += f"\n {'':{_VERDICT_WIDTH}} {'':{_CHECK_WIDTH}} → {one_line(finding.remedy)}"
    return Text(line)


def _sum(counts: Counter[Verdict]) -> Text:
    words: list[tuple[str, str]] = []
    for verdict, plural in ((Verdict.FAILURE, "failures"), (Verdict.WARNING, "warnings"), (Verdict.OK, "ok")):
        number = counts[verdict]
        noun = verdict.value if number == 1 else plural
        words += [(f"{number or 'no'} {noun}", _STYLES[verdict] if number else "dim"), (", ", "")]
    return Text.assemble(*words[:-1])


def _as_json(sections: Sequence[tuple[str, list[Finding]]], counts: Counter[Verdict]) -> dict[str, object]:
    return {
        "ok": not counts[Verdict.FAILURE],
        "counts": {verdict.value: counts[verdict] for verdict in Verdict},
        "findings": [
            {
                "section": title,
                "check": finding.check,
                "verdict": finding.verdict.value,
                "what": one_line(finding.what),
                "remedy": None if finding.remedy is None else one_line(finding.remedy),
            }
            for title, group in sections
            for finding in group
        ],
    }
