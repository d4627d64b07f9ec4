"""Samples as a table: medians over the rounds, ratios to the reference server of the same run, goals met or missed."""

import csv
import io
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.bench import Case, Goal, Sample

MEASURED = "harmonia-py"
REFERENCE = "nginx"
_COLUMNS = ("section", "what", "unit", "server", "median", "low", "high", "rounds", "reference", "ratio")
_COST_COLUMNS = ("cpu_seconds", "peak_mb", "goal", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One server's result of one case.

    Attributes:
        case: what was measured.
        server: of whom.
        values: of every round.
        reference: the server that the ratio is to.
        ratio: of the medians; None for the reference, and where there is none.
        cpu_seconds: median of what its processes spent.
        peak_pss: the most memory they had in any round, in bytes.
    """

    case: Case
    server: str
    values: Sequence[float]
    reference: str
    ratio: float | None
    cpu_seconds: float | None
    peak_pss: int | None

    @property
    def median(self) -> float:
        """The value that stands in the table."""
        return median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none, or no reference to compare with."""
        goal = self.case.goal
        if goal is None or self.server != MEASURED:
            return None
        value = self.median if goal.server is None else self.ratio
        if value is None:
            return None
        return value >= goal.limit if self.case.more_is_better else value <= goal.limit

    def cells(self) -> dict[str, str]:
        """The row as texts, by column."""
        met = self.met
        return {
            "section": self.case.section,
            "what": self.case.what,
            "unit": self.case.unit,
            "server": self.server,
            "median": _number(self.median),
            "low": _number(min(self.values)),
            "high": _number(max(self.values)),
            "rounds": str(len(self.values)),
            "reference": self.reference if self.ratio is not None else "",
            "ratio": f"{self.ratio:.2f}" if self.ratio is not None else "",
            "cpu_seconds": f"{self.cpu_seconds:.2f}" if self.cpu_seconds is not None else "",
            "peak_mb": f"{self.peak_pss / 1e6:.0f}" if self.peak_pss is not None else "",
            "goal": format_goal(self.case, self.case.goal) if self.case.goal and self.server == MEASURED else "",
            "met": "" if met is None else "yes" if met else "no",
        }


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_goal(case: Case, goal: Goal) -> str:
    """The goal of a case, in signs and words."""
    sign = "≥" if case.more_is_better else "≤"
    return f"{sign} {goal.limit:g}" + (f" x {goal.server}" if goal.server else f" {case.unit}")


def rows(samples: Iterable[Sample]) -> list[Row]:
    """One row for each case and server, in the order in which they were first measured."""
    grouped: dict[Case, dict[str, list[Sample]]] = {}
    for sample in samples:
        grouped.setdefault(sample.case, {}).setdefault(sample.server, []).append(sample)
    return [_row(case, server, servers) for case, servers in grouped.items() for server in servers]


def _row(case: Case, server: str, servers: Mapping[str, Sequence[Sample]]) -> Row:
    reference = case.goal.server if case.goal is not None and case.goal.server is not None else REFERENCE
    samples = servers[server]
    ratio = None
    if server != reference and reference in servers:
        base = median(sample.value for sample in servers[reference])
        ratio = median(sample.value for sample in samples) / base if base else None
    cpu = [sample.cpu_seconds for sample in samples if sample.cpu_seconds is not None]
    peaks = [sample.peak_pss for sample in samples if sample.peak_pss is not None]
    return Row(
        case=case,
        server=server,
        values=[sample.value for sample in samples],
        reference=reference,
        ratio=ratio,
        cpu_seconds=median(cpu) if cpu else None,
        peak_pss=max(peaks) if peaks else None,
    )


def format_table(table: Sequence[Row]) -> str:
    """A Markdown table, aligned so that it reads well in a terminal."""
    names = ("section", "what", "server", "median", "unit", "ratio", "cpu_seconds", "peak_mb", "goal", "met")
    titles = dict(
        zip(names, ("", "", "server", "median", "unit", "ratio", "CPU s", "peak MB", "goal", "met"), strict=True)
    )
    lines = [titles, *(row.cells() for row in table)]
    widths = {name: max(len(line[name]) for line in lines) for name in names}
    texts = ["| " + " | ".join(line[name].ljust(widths[name]) for name in names) + " |" for line in lines]
    rule = "|" + "|".join("-" * (widths[name] + 2) for name in names) + "|"
    return "\n".join([texts[0], rule, *texts[1:], ""])


def by_case(samples: Iterable[Sample]) -> dict[Case, dict[str, Row]]:
    """The row of each server, for each case."""
    cases: dict[Case, dict[str, Row]] = {}
    for row in rows(samples):
        cases.setdefault(row.case, {})[row.server] = row
    return cases


def format_columns(
    samples: Sequence[Sample],
    columns: Mapping[str, str],
    more: Mapping[str, Callable[[Case, Mapping[str, Row]], str]] | None = None,
) -> str:
    """A Markdown table with the medians of each server in a column.

    Args:
        samples: what was measured.
        columns: the servers, in order, and what stands above their columns.
        more: further columns by their titles; each cell is made of the case and the row of each server.
    """
    further = more or {}
    titles = ["what", "unit", *columns.values(), *further]
    lines = [titles, ["---"] * len(titles)]
    for case, servers in by_case(samples).items():
        cells = [f"{servers[name].median:.4g}" if name in servers else "-" for name in columns]
        lines.append([case.what, case.unit, *cells, *(make(case, servers) for make in further.values())])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def format_csv(table: Sequence[Row]) -> str:
    """Every column, for whoever wants to draw something else of it."""
    output = io.StringIO()
    writer = csv.DictWriter(output, [*_COLUMNS, *_COST_COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.cells() for row in table)
    return output.getvalue()


def describe_machine(workers: int, load: float) -> str:
    """One paragraph on what the figures were measured with; `load` is the load average before it began."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    versions = (_output("git", "describe", "--always", "--dirty"), _output("nginx", "-v").rpartition(": ")[2])
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, harmonia-py {versions[0]}, {versions[1]}, "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{_output('nix', '--version')}; {os.cpu_count()} x {model[1] if model else platform.machine()}, {memory} GiB, "
        f"Linux {platform.release()}; {workers} processes per server, load from the same machine over loopback; "
        f"load average before: {load:.1f}."
    )


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return f"no {command[0]}"
    return (done.stdout or done.stderr).strip()
