"""The metrics drawn on a terminal, again and again, or printed as JSON."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.columns import Columns
from rich.console import Console, Group
from rich.filesize import decimal
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from harmonia_py.commands.shared.progress import count
from harmonia_py.commands.top.keys import key_that_ends, sleep
from harmonia_py.commands.top.reading import Reading, printable
from harmonia_py.commands.top.view import Cache, Chunks, Collection, Upstream, View, Worker, compare
from harmonia_py.upstream.credentials import read_authorization

_HASTE_MILLISECONDS: Final = 10.0
# The rest, with less to show, is in the JSON.
_MOST_CACHES: Final = 12
_HOW_TO_END: Final = "[dim]q ends[/]"


def top(url: str, *, token_file: Path | None, interval: float, once: bool, as_json: bool) -> None:
    """Show the metrics of the server at `url` until interrupted, or once, and return the exit status.

    Raises:
        NoMetrics: the server does not answer; also later, when it has gone.
        ConfigError: the file of the token cannot be read.
    """
    console = Console(highlight=False)
    authorization = read_authorization("", None, token_file)
    if once or as_json or not console.is_terminal:
        for view in _views(url, interval, authorization, sleep):
            if as_json:
                print(json.dumps(msgspec.to_builtins(view)), flush=True)  # what a script reads
            else:
                console.print(_draw(view, url))
            if once or not as_json:
                break
        return
    first = Group(f"looking at {escape(printable(url))} …", _HOW_TO_END)
    with key_that_ends() as wait, Live(first, console=console, screen=True, auto_refresh=False) as live:
        for view in _views(url, interval, authorization, wait):
            live.update(Group(_draw(view, url), _HOW_TO_END), refresh=True)


def _views(url: str, interval: float, authorization: str | None, wait: Callable[[float], bool]) -> Iterator[View]:
    """The changes in each interval, one after the other, until `wait` returns True."""
    before = Reading.of(url, authorization)
    while not wait(interval):
        after = Reading.of(url, authorization)
        yield compare(before, after, time.time())
        before = after


def _draw(view: View, url: str) -> Group:
    head = (
        f"[bold]harmonia-py {escape(view.version)}[/] at {escape(printable(url))}, up {_duration(view.uptime)}: "
        f"[bold]{view.requests:,.0f}[/] requests/s, [bold]{_bytes(view.sent_bytes)}[/]/s, "
        f"{count(round(view.connections), 'connection')}, {count(round(view.in_flight), 'download')}"
    )
    boxes = [
        _box("requests/s", {name: f"{value:,.1f}" for name, value in view.requests_by_path.items()}),
        _box("answers/s", {name: f"{value:,.1f}" for name, value in view.requests_by_status.items()}),
        _box("sent/s", {name: _bytes(value) for name, value in view.sent_bytes_by_kind.items()}),
        _box(
            "latency",
            {
                "narinfo p50": _time(view.narinfo_p50),
                "narinfo p99": _time(view.narinfo_p99),
                "first byte p50": _time(view.first_byte_p50),
                "first byte p99": _time(view.first_byte_p99),
            },
        ),
        _box("cut", {name: f"{value:,.0f}" for name, value in view.aborted.items()}),
        _box("compressed", {name: f"{value:,.0f}" for name, value in view.compressed.items()}),
        _box(
            "kept",
            {name: _bytes(value) for name, value in view.kept_bytes.items()}
            | {"evicted/s": _bytes(view.evicted_bytes)},
        ),
        _box(
            "nix-daemon",
            {
                "active": f"{view.daemon_active:.0f}",
                "idle": f"{view.daemon_idle:.0f}",
                "errors": f"{view.daemon_errors:,.0f}",
            },
        ),
    ]
    if view.pushed or view.pushed_bytes:
        paths = {name.replace("_", " "): f"{value:,.0f}" for name, value in view.pushed.items()}
        boxes.append(_box("pushed", {"received/s": _bytes(view.pushed_bytes)} | paths))
    if view.collection is not None:
        boxes.append(_collection(view.collection))
    if view.chunks is not None:
        boxes.append(_chunks(view.chunks))
    tables = [_workers(view)]
    if len(view.caches) > 1:
        tables.append(_caches(view.caches))
    if view.upstreams:
        tables.append(_upstreams(view.upstreams))
    return Group(head, Columns(boxes), *tables)


def _box(title: str, rows: Mapping[str, str]) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14)
    table.add_column(justify="right", min_width=9)
    for name, value in rows.items():
        table.add_row(escape(name), value)
    return Panel(table, title=title, title_align="left", border_style="dim", expand=False)


def _collection(collection: Collection) -> Panel:
    lost = f"[red]{collection.quarantined:,.0f}[/]" if collection.quarantined else "0"
    return _box(
        "collection",
        {
            "last": f"{_duration(collection.age)} ago",
            "paths": f"{collection.paths:,.0f}",
            "size": _bytes(collection.size),
            "pinned": f"{collection.pinned:,.0f}",
            "condemned": f"{collection.condemned:,.0f}",
            "freed": _bytes(collection.freed),
            "garbage": f"{collection.garbage:,.0f}",
            "quarantined": lost,
        },
    )


def _chunks(chunks: Chunks) -> Panel:
    return _box(
        "chunks",
        {
            "last": f"{_duration(chunks.age)} ago",
            "files": f"{chunks.files:,.0f}",
            "before": _bytes(chunks.former),
            "packs": _bytes(chunks.packs),
            "unused": _bytes(chunks.unused),
            "waiting": f"{chunks.waiting:,.0f}",
            "left": f"{chunks.left:,.0f}",
            "errors": f"[red]{chunks.errors:,.0f}[/]" if chunks.errors else "0",
        },
    )


def _workers(view: View) -> Table:
    table = Table(box=None, header_style="dim")
    for heading in ("worker", "CPU", "memory", "descriptors"):
        table.add_column(heading, justify="left" if heading == "worker" else "right")
    total = Worker("all", view.cpu, view.resident_bytes, view.open_fds)
    for one in (*view.workers, total):
        table.add_row(escape(one.name), f"{one.cpu:.0%}", _bytes(one.resident_bytes), f"{one.open_fds:.0f}")
    return table


def _upstreams(upstreams: Sequence[Upstream]) -> Table:
    table = Table(box=None, header_style="dim")
    for heading in ("upstream", "requests/s", "errors/s", "received/s", ""):
        table.add_column(heading, justify="left" if heading == "upstream" else "right")
    for one in upstreams:
        state = "[red]left alone[/]" if one.left_alone else ""
        table.add_row(escape(one.name), f"{one.requests:,.1f}", f"{one.errors:,.1f}", _bytes(one.received_bytes), state)
    return table


def _caches(caches: Sequence[Cache]) -> Table:
    table = Table(box=None, header_style="dim")
    for heading in ("cache", "narinfos/s", "found", "paths", "size", "limit", "pushed NARs"):
        table.add_column(heading, justify="left" if heading == "cache" else "right")
    for one in caches[:_MOST_CACHES]:
        table.add_row(
            escape(one.name),
            f"{one.narinfos:,.1f}",
            "-" if one.found is None else f"{one.found:.0%}",
            f"{one.paths:,.0f}",
            _bytes(one.size),
            "-" if one.max_size is None else _bytes(one.max_size),
            f"{one.pushed_nars:,.0f}",
        )
    if len(caches) > _MOST_CACHES:
        table.add_row(f"[dim]… and {count(len(caches) - _MOST_CACHES, 'cache')}[/]")
    return table


def _bytes(value: float) -> str:
    return decimal(int(value))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    milliseconds = seconds * 1000
    return f"{milliseconds:.2f} ms" if milliseconds < _HASTE_MILLISECONDS else f"{milliseconds:,.0f} ms"


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"
