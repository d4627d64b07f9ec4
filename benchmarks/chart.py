"""The table as a picture: how fast each server is, beside nginx, as horizontal bars in one SVG file."""

import subprocess
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.bench import require
from benchmarks.report import MEASURED, REFERENCE, Row

_WIDTH = 940
_LARGE = 1000  # from here on digits are grouped
_LABEL = 330
_VALUE = 190
_BAR = 16
_GROUP_GAP = 10
_TOP = 120
_COLOURS = ("#2f6fde", "#e08a1e", "#3f9d58", "#a14fc4", "#c8473d")
_REFERENCE_COLOUR = "#9aa3ad"
_SECTIONS = ("narinfo", "none", "zstd", "big", "query", "copy")  # where faster than nginx means something
_MAX_SPEED = 2.0  # bars end here; the number beside them does not


def format_svg(table: Sequence[Row], caption: str) -> str:
    """Bars of relative speed for every case that nginx has part in; 1 is nginx, longer is faster."""
    compared = [row for row in table if _is_drawn(row)]
    names = list(dict.fromkeys(row.server for row in sorted(compared, key=lambda row: row.server != MEASURED)))
    scale = (_WIDTH - _LABEL - _VALUE) / _MAX_SPEED
    body, top, previous = [], _TOP, None
    for row in compared:
        if row.case != previous:
            top += _GROUP_GAP
            body.append(_text(_LABEL - 8, top + _BAR - 4, f"{row.case.section}: {row.case.what}", anchor="end"))
            previous = row.case
        speed = _speed(row)
        colour = _COLOURS[names.index(row.server) % len(_COLOURS)]
        width = min(speed, _MAX_SPEED) * scale
        body.append(f'<rect x="{_LABEL}" y="{top}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>')
        median = f"{row.median:,.0f}" if row.median >= _LARGE else f"{row.median:.4g}"
        value = f"{speed:.2f} x ({median} {row.case.unit})"
        body.append(_text(_WIDTH - _VALUE + 10, top + _BAR - 4, value))
        top += _BAR
    line = _LABEL + scale
    body.append(f'<path d="M{line:.1f} {_TOP}V{top + 4}" stroke="{_REFERENCE_COLOUR}" stroke-dasharray="4 3"/>')
    body += _heading(names, caption, line)
    height = top + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="11">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _is_drawn(row: Row) -> bool:
    return (
        row.ratio is not None and row.reference == REFERENCE and row.case.section in _SECTIONS and not row.case.is_cost
    )


def _speed(row: Row) -> float:
    assert row.ratio is not None
    return row.ratio if row.case.more_is_better else 1 / max(row.ratio, 1e-9)


def _heading(names: Sequence[str], caption: str, middle: float) -> list[str]:
    parts = [
        _text(12, 22, "Speed beside nginx serving static files (longer is faster)", size=15),
        *(_text(12, 40 + 14 * number, line, colour="#667080") for number, line in enumerate(caption.split("; "))),
        _text(middle, _TOP - 6, "nginx = 1", anchor="middle", colour="#667080"),
    ]
    for number, name in enumerate(names):
        left = 12 + 150 * number
        parts.append(
            f'<rect x="{left}" y="{_TOP - 24}" width="10" height="10" fill="{_COLOURS[number % len(_COLOURS)]}"/>'
        )
        parts.append(_text(left + 16, _TOP - 15, name))
    return parts


def _text(left: float, top: float, text: str, *, anchor: str = "start", size: int = 11, colour: str = "#1d2530") -> str:
    place = f'x="{left:.1f}" y="{top}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{colour}">{escape(text)}</text>'


def write_png(svg: Path, png: Path) -> None:
    """Draw `svg` into `png`.

    Raises:
        BenchmarkError: rsvg-convert is missing.
    """
    command = [require("rsvg-convert"), "--zoom=2", "--output", str(png), str(svg)]
    subprocess.run(command, check=True, timeout=60)
