"""What happened between two readings: functions from values to values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harmonia_py.top.reading import Reading


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
