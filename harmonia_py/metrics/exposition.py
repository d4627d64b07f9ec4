"""Prometheus's text format, version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from harmonia_py.errors import FormatError
from harmonia_py.metrics.families import FAMILIES
from harmonia_py.metrics.families.http import HTTP_REQUEST_DURATION, HTTP_REQUESTS
from harmonia_py.metrics.family import Family

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)(?: -?[0-9]+)?")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')
_ESCAPES: Final = re.compile(r"\\(.)")


class Sample(NamedTuple):
    """One line: a number under a name, with labels."""

    name: str
    labels: Mapping[str, str]
    value: float


def format_metrics(figures: Mapping[str, Sequence[float]]) -> str:
    """The whole text. Series of durations without any observation are left out.

    Args:
        figures: the numbers of each series by its name and labels, as `Family.series` writes them; of a histogram the
            count of each bucket alone, the count beyond the last, and the sum.
    """
    by_name: dict[str, list[tuple[str, Sequence[float]]]] = {}
    for series, cells in figures.items():
        name, _, labels = series.partition("{")
        by_name.setdefault(name, []).append((labels.removesuffix("}"), cells))
    # Every answer has taken some time, so they are counted once.
    durations = by_name.get(HTTP_REQUEST_DURATION.name, ())
    requests = [(labels, sum(cells[:-1])) for labels, cells in durations]
    by_name[HTTP_REQUESTS.name] = [(labels, [count]) for labels, count in requests]
    # The counter begins at zero for `increase()`; twelve lines of zeros beside it would be nine tenths of the text.
    answered = {labels for labels, count in requests if count}
    by_name[HTTP_REQUEST_DURATION.name] = [(labels, cells) for labels, cells in durations if labels in answered]
    return "".join(_lines(FAMILIES, by_name))


def _lines(families: Iterable[Family], by_name: Mapping[str, Sequence[tuple[str, Sequence[float]]]]) -> Iterator[str]:
    for family in families:
        yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
        for labels, cells in by_name.get(family.name, ()):
            braced = f"{{{labels}}}" if labels else ""
            if family.kind == "histogram":
                yield _histogram(family, labels, braced, cells)
            else:
                yield f"{family.name}{braced} {_number(cells[0])}\n"


def _histogram(family: Family, labels: str, braced: str, cells: Sequence[float]) -> str:
    before = f"{labels}," if labels else ""
    lines = []
    count = 0.0
    for bound, cell in zip((*map(_number, family.buckets), "+Inf"), cells, strict=False):
        count += cell
        lines.append(f'{family.name}_bucket{{{before}le="{bound}"}} {_number(count)}\n')
    lines.append(f"{family.name}_sum{braced} {_number(cells[-1])}\n")
    lines.append(f"{family.name}_count{braced} {_number(count)}\n")
    return "".join(lines)


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def parse_metrics(text: str) -> list[Sample]:
    """The samples of a text in this format, by any program.

    Raises:
        FormatError: it is not in this format.
    """
    return [_parse_sample(line) for line in text.split("\n") if line and not line.startswith("#")]


def _parse_sample(line: str) -> Sample:
    matched = _SAMPLE.fullmatch(line)
    if matched is None:
        raise FormatError(f"not a line of metrics: {line[:80]!r}")
    name, labels, value = matched.groups()
    try:
        return Sample(name, _parse_labels(labels or ""), float(value))
    except ValueError:
        raise FormatError(f"not a line of metrics: {line[:80]!r}") from None


def _parse_labels(text: str) -> dict[str, str]:
    labels = {}
    at = 0
    while at < len(text):
        matched = _LABEL.match(text, at)
        if matched is None:
            raise FormatError(f"not the labels of a metric: {text[:80]!r}")
        labels[matched[1]] = _ESCAPES.sub(lambda found: "\n" if found[1] == "n" else found[1], matched[2])
        at = matched.end()
    return labels
