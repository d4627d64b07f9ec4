"""`harmonia-py top`: the figures of a running server, in a terminal. What is shown is worked out from two readings."""

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Final, Self

from rich.columns import Columns
from rich.console import Console, Group
from rich.filesize import decimal
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from harmonia_py.errors import FormatError, HarmoniaError
from harmonia_py.metrics.exposition import Sample, parse_metrics
from harmonia_py.upstream.credentials import read_authorization

_TIMEOUT_SECONDS: Final = 10.0
# A server's figures are a quarter of a MiB; more than this are somebody else's.
_MAX_BYTES: Final = 16 * 1024 * 1024
_HASTE_MILLISECONDS: Final = 10.0


class NoFigures(HarmoniaError):
    """Nobody answers there, or not with metrics of harmonia-py."""


class Reading:
    """What a server's `/metrics` said.

    Attributes:
        seconds: when, by a monotonic clock.
    """

    def __init__(self, samples: Sequence[Sample], seconds: float) -> None:
        self.seconds = seconds
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    @classmethod
    def of(cls, url: str, authorization: str | None = None) -> Self:
        """Ask the server whose URL, or that of whose `/metrics`, is `url`; `authorization` goes to no other.

        Raises:
            NoFigures: it does not say.
        """
        if not url.startswith(("http://", "https://")):
            raise NoFigures(f"{url}: is not a URL that begins with http:// or https://")
        url = url.rstrip("/").removesuffix("/metrics") + "/metrics"
        try:
            request = urllib.request.Request(url)  # noqa: S310  # checked above
            if authorization is not None:
                request.add_unredirected_header("Authorization", authorization)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310  # checked above
                text = response.read(_MAX_BYTES).decode()
            reading = cls(parse_metrics(text), time.monotonic())
        except urllib.error.HTTPError as error:
            error.close()
            raise NoFigures(f"{url}: {_explain(error)}") from error
        except (OSError, HTTPException, ValueError, FormatError) as error:
            raise NoFigures(f"{url}: {getattr(error, 'reason', None) or error}") from error
        if not reading.all("harmonia_build_info"):
            raise NoFigures(f"{url}: these are not the metrics of harmonia-py")
        return reading

    def all(self, name: str) -> list[Sample]:
        """The samples with this name."""
        return self._by_name.get(name, [])

    def sum(self, name: str, **labels: str) -> float:
        """The sum of those that have these labels."""
        return sum(
            one.value
            for one in self.all(name)
            if all(_printable(one.labels.get(name, "")) == value for name, value in labels.items())
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums for each value of a label."""
        sums: dict[str, float] = {}
        for one in self.all(name):
            value = _printable(one.labels.get(label, ""))
            sums[value] = sums.get(value, 0.0) + one.value
        return sums


@dataclass(frozen=True, slots=True)
class Worker:
    """One process: its share of a core, its memory in bytes, its descriptors."""

    name: str
    cpu: float
    resident_bytes: float
    open_fds: float


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream: requests, failures and bytes per second, and whether it is left alone."""

    name: str
    requests: float
    errors: float
    received_bytes: float
    left_alone: bool


@dataclass(frozen=True, slots=True)
class View:
    """What is shown: rates are per second between two readings; None is what nothing happened for."""

    version: str
    seconds: float
    uptime: float
    requests: float
    requests_by_path: dict[str, float]
    requests_by_status: dict[str, float]
    sent_bytes: float
    sent_bytes_by_kind: dict[str, float]
    narinfo_p50: float | None
    narinfo_p99: float | None
    first_byte_p50: float | None
    first_byte_p99: float | None
    connections: float
    in_flight: float
    aborted: dict[str, float]
    compressed: dict[str, float]
    kept_bytes: dict[str, float]
    evicted_bytes: float
    daemon_active: float
    daemon_idle: float
    daemon_errors: float
    cpu: float
    resident_bytes: float
    open_fds: float
    workers: list[Worker]
    upstreams: list[Upstream]


def compare(before: Reading, after: Reading, now: float) -> View:
    """What happened between two readings, and what is. `now` is the Unix time of the second."""
    seconds = max(after.seconds - before.seconds, 1e-6)

    def rate(name: str, **labels: str) -> float:
        # A server that was started again counts from zero.
        return max(0.0, after.sum(name, **labels) - before.sum(name, **labels)) / seconds

    def rates(name: str, label: str) -> dict[str, float]:
        values = {value: rate(name, **{label: value}) for value in after.by(name, label)}
        return dict(sorted(((value, one) for value, one in values.items() if one), key=lambda pair: -pair[1]))

    def latency(name: str, quantile: float, path: str) -> float | None:
        return _quantile(_since(before, after, f"{name}_bucket", path), quantile)

    return View(
        version=next(iter(after.by("harmonia_build_info", "version"))),
        seconds=seconds,
        uptime=max(0.0, now - after.sum("process_start_time_seconds")),
        requests=rate("harmonia_http_requests_total"),
        requests_by_path=rates("harmonia_http_requests_total", "path"),
        requests_by_status=rates("harmonia_http_requests_total", "status"),
        sent_bytes=rate("harmonia_http_sent_bytes_total"),
        sent_bytes_by_kind=rates("harmonia_http_sent_bytes_total", "kind"),
        narinfo_p50=latency("harmonia_http_request_duration_seconds", 0.5, "narinfo"),
        narinfo_p99=latency("harmonia_http_request_duration_seconds", 0.99, "narinfo"),
        first_byte_p50=latency("harmonia_http_time_to_first_byte_seconds", 0.5, "nar"),
        first_byte_p99=latency("harmonia_http_time_to_first_byte_seconds", 0.99, "nar"),
        connections=after.sum("harmonia_http_connections"),
        in_flight=after.sum("harmonia_transfers_in_flight"),
        aborted=after.by("harmonia_transfers_aborted_total", "reason"),
        compressed=after.by("harmonia_compressed_downloads_total", "result"),
        kept_bytes=after.by("harmonia_cache_size_bytes", "directory"),
        evicted_bytes=rate("harmonia_cache_evicted_bytes_total"),
        daemon_active=after.sum("harmonia_daemon_active_connections"),
        daemon_idle=after.sum("harmonia_daemon_idle_connections"),
        daemon_errors=after.sum("harmonia_daemon_connection_errors_total"),
        cpu=rate("process_cpu_seconds_total"),
        resident_bytes=after.sum("process_resident_memory_bytes"),
        open_fds=after.sum("process_open_fds"),
        workers=[
            Worker(
                name=name,
                cpu=rate("harmonia_worker_cpu_seconds_total", worker=name),
                resident_bytes=after.sum("harmonia_worker_resident_memory_bytes", worker=name),
                open_fds=after.sum("harmonia_worker_open_fds", worker=name),
            )
            for name in after.by("harmonia_worker_open_fds", "worker")
        ],
        upstreams=[
            Upstream(
                name=name,
                requests=rate("harmonia_upstream_requests_total", upstream=name),
                errors=rate("harmonia_upstream_errors_total", upstream=name),
                received_bytes=rate("harmonia_upstream_received_bytes_total", upstream=name),
                left_alone=after.sum("harmonia_upstream_breaker_open", upstream=name) > 0,
            )
            for name in after.by("harmonia_upstream_breaker_open", "upstream")
        ],
    )


def _since(before: Reading, after: Reading, name: str, path: str) -> list[tuple[float, float]]:
    """Upper bounds and how many were not above them, of what came between the readings."""
    counts: dict[float, float] = {}
    for sign, reading in ((1, after), (-1, before)):
        for one in reading.all(name):
            if one.labels.get("path") == path:
                bound = float(one.labels["le"])
                counts[bound] = counts.get(bound, 0.0) + sign * one.value
    return sorted(counts.items())


def _quantile(buckets: Sequence[tuple[float, float]], quantile: float) -> float | None:
    """As Prometheus's histogram_quantile: evenly spread inside a bucket, the last finite bound for what is beyond."""
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank = quantile * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below or 1.0)
        lower, below = bound, count
    return lower


def top(url: str, *, token_file: Path | None, interval: float, once: bool, as_json: bool) -> int:
    """Show the figures of the server at `url` until interrupted, or once; the exit status.

    Raises:
        NoFigures: the server does not answer; also later, when it has gone.
        ConfigError: the file of the token cannot be read.
    """
    console = Console(highlight=False)
    views = _views(url, interval, token_file)
    if as_json:
        for view in views:
            print(json.dumps(asdict(view)), flush=True)  # noqa: T201  # what a script reads
            if once:
                break
    elif once or not console.is_terminal:
        console.print(_draw(next(views), url))
    else:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for view in views:
                live.update(_draw(view, url), refresh=True)
    return 0


def _views(url: str, interval: float, token_file: Path | None) -> Iterator[View]:
    authorization = None if token_file is None else read_authorization("", None, token_file)
    before = Reading.of(url, authorization)
    while True:
        time.sleep(interval)
        after = Reading.of(url, authorization)
        yield compare(before, after, time.time())
        before = after


def _draw(view: View, url: str) -> Group:
    head = (
        f"[bold]harmonia-py {escape(view.version)}[/] at {escape(_printable(url))}, up {_duration(view.uptime)}: "
        f"[bold]{view.requests:,.0f}[/] requests/s, [bold]{_bytes(view.sent_bytes)}[/]/s, "
        f"{view.connections:.0f} connections, {view.in_flight:.0f} downloads"
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
    tables = [_workers(view)]
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


def _workers(view: View) -> Table:
    table = Table(box=None, header_style="dim")
    for heading in ("worker", "CPU", "memory", "descriptors"):
        table.add_column(heading, justify="left" if heading == "worker" else "right")
    everybody = Worker("all", view.cpu, view.resident_bytes, view.open_fds)
    for one in (*view.workers, everybody):
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


def _explain(error: urllib.error.HTTPError) -> str:
    if error.code == HTTPStatus.UNAUTHORIZED:
        return "it is not public: --token-file FILE opens it, with the token of one whom it knows"
    return str(error)


def _printable(text: str) -> str:
    """What a server calls things must not move the cursor of whoever looks at it."""
    return "".join(one if one.isprintable() else "?" for one in text)


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
