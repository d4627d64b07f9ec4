"""The view of the changes between two readings: functions from values to values."""

import math
from collections.abc import Callable, Sequence

from msgspec import Struct

from harmonia_py.commands.top.reading import Reading


class Worker(Struct, frozen=True):
    """One process: its share of a core, its memory in bytes, its descriptors."""

    name: str
    cpu: float
    resident_bytes: float
    open_fds: float


class Upstream(Struct, frozen=True):
    """One upstream: requests, failures and bytes per second, and whether it is left alone."""

    name: str
    requests: float
    errors: float
    received_bytes: float
    left_alone: bool


class Cache(Struct, frozen=True):
    """One cache: its paths and bytes, bytes that it may have, its use.

    Attributes:
        name: of the cache; the caches without series of their own are one.
        paths: that were pushed to it and that readers see, as of the last collection.
        size: bytes of the files of these paths, as of the last collection.
        max_size: bytes that it may have; None for no limit.
        narinfos: that it was asked for, per second.
        found: the share of them that it had; None when it was asked for none.
        pushed_nars: that it was sent since the server started.
    """

    name: str
    paths: float
    size: float
    max_size: float | None
    narinfos: float
    found: float | None
    pushed_nars: float


class Collection(Struct, frozen=True):
    """The figures of pushed paths, as the last collection has left them.

    Attributes:
        age: seconds since it ended.
        paths: that readers see and that are not on their way out,
        size: and bytes of their files.
        condemned: paths that are on their way out.
        pinned: paths that a pin names and keeps.
        freed: bytes of the files of paths that went since the server started.
        garbage: files that are to be deleted.
        quarantined: files that are missing or wrong.
    """

    age: float
    paths: float
    size: float
    condemned: float
    pinned: float
    freed: float
    garbage: float
    quarantined: float


class Chunks(Struct, frozen=True):
    """The figures of chunks, as the last pass of the job has left them.

    Attributes:
        age: seconds since it ended.
        files: that are made of chunks,
        former: and bytes that these took before.
        packs: bytes of the files that chunks are in,
        unused: and of these, what is not needed any more.
        waiting: paths that may become chunks and were not looked at yet.
        left: files that stay as they are, since the server started.
        errors: passes that could not go on.
    """

    age: float
    files: float
    former: float
    packs: float
    unused: float
    waiting: float
    left: float
    errors: float


class View(Struct, frozen=True):
    """The values that are shown: rates are per second between two readings; None where nothing happened."""

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
    pushed_bytes: float
    pushed: dict[str, float]
    caches: list[Cache]
    collection: Collection | None
    chunks: Chunks | None
    daemon_active: float
    daemon_idle: float
    daemon_errors: float
    cpu: float
    resident_bytes: float
    open_fds: float
    workers: list[Worker]
    upstreams: list[Upstream]


def compare(before: Reading, after: Reading, now: float) -> View:
    """The rates between two readings, and the state at the second one, which was taken at the Unix time `now`."""
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
        pushed_bytes=rate("harmonia_pushed_bytes_total"),
        pushed={name: count for name, count in after.by("harmonia_pushed_paths_total", "result").items() if count},
        caches=_caches(after, rate),
        collection=_collection(after, now),
        chunks=_chunks(after, now),
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


def _caches(reading: Reading, rate: Callable[..., float]) -> list[Cache]:
    """The caches that are asked for most, and that have most, first."""
    narinfos = "harmonia_caches_narinfos_total"
    pushed_nars = reading.by("harmonia_caches_pushed_nars_total", "cache")
    paths, sizes, limits = (
        reading.by(f"harmonia_caches_{what}", "cache") for what in ("kept_paths", "kept_bytes", "max_bytes")
    )
    caches = []
    for name in pushed_nars.keys() | paths.keys():
        asked, found = rate(narinfos, cache=name), rate(narinfos, cache=name, result="found")
        caches.append(
            Cache(
                name=name,
                paths=paths.get(name, 0.0),
                size=sizes.get(name, 0.0),
                max_size=limits.get(name) or None,
                narinfos=asked,
                found=found / asked if asked else None,
                pushed_nars=pushed_nars.get(name, 0.0),
            )
        )
    return sorted(caches, key=lambda cache: (-cache.narinfos, -cache.size, cache.name))


def _collection(reading: Reading, now: float) -> Collection | None:
    """None while no collection has ended since the server started."""
    ended = reading.sum("harmonia_last_collection_seconds")
    if not ended:
        return None
    return Collection(
        age=max(0.0, now - ended),
        paths=reading.sum("harmonia_kept_paths", state="published"),
        size=reading.sum("harmonia_kept_bytes", state="published"),
        condemned=reading.sum("harmonia_kept_paths", state="condemned"),
        pinned=reading.sum("harmonia_pinned_paths"),
        freed=reading.sum("harmonia_collected_bytes_total"),
        garbage=reading.sum("harmonia_garbage_files"),
        quarantined=reading.sum("harmonia_files_in_quarantine", directory="pushed"),
    )


def _chunks(reading: Reading, now: float) -> Chunks | None:
    """None while nothing is made of chunks, and nothing waits to be."""
    ended = max(reading.by("harmonia_last_deduplication_seconds", "directory").values(), default=0.0)
    files, waiting = reading.sum("harmonia_chunked_files"), reading.sum("harmonia_deduplication_waiting_paths")
    if not ended or not (files or waiting):
        return None
    return Chunks(
        age=max(0.0, now - ended),
        files=files,
        former=reading.sum("harmonia_chunked_former_bytes"),
        packs=reading.sum("harmonia_pack_bytes"),
        unused=reading.sum("harmonia_pack_bytes", state="unused"),
        waiting=waiting,
        left=reading.sum("harmonia_deduplicated_files_total", result="left"),
        errors=reading.sum("harmonia_deduplication_errors_total"),
    )


def _since(before: Reading, after: Reading, name: str, path: str) -> list[tuple[float, float]]:
    """The buckets of the observations between the readings: upper bounds, and how many were not above each."""
    counts: dict[float, float] = {}
    for sign, reading in ((1, after), (-1, before)):
        for one in reading.all(name):
            if one.labels.get("path") == path:
                bound = float(one.labels["le"])
                counts[bound] = counts.get(bound, 0.0) + sign * one.value
    return sorted(counts.items())


def _quantile(buckets: Sequence[tuple[float, float]], quantile: float) -> float | None:
    """The quantile as Prometheus's histogram_quantile has it: observations are evenly spread inside a bucket.

    It is the last finite bound when the quantile lies beyond that.
    """
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
