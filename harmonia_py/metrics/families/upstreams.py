"""The families of upstreams and of the mirror."""

from typing import Final

from harmonia_py.metrics.family import Family

UPSTREAM_REQUESTS: Final = Family(
    "harmonia_upstream_requests_total",
    "counter",
    "Requests to an upstream that were answered: with what was asked for (found), or that it is not there (absent).",
    ("upstream", "result"),
)
UPSTREAM_ERRORS: Final = Family(
    "harmonia_upstream_errors_total",
    "counter",
    "Requests to an upstream that failed.",
    ("upstream", "reason"),
)
UPSTREAM_BYTES: Final = Family(
    "harmonia_upstream_received_bytes_total", "counter", "Bytes that came from an upstream.", ("upstream",)
)
UPSTREAM_BREAKER: Final = Family(
    "harmonia_upstream_breaker_open",
    "gauge",
    "1 while an upstream is not asked because it failed, by any worker.",
    ("upstream",),
    merge="max",
)
MIRROR_NARINFOS: Final = Family(
    "harmonia_mirror_narinfos_total",
    "counter",
    "Narinfos that the mirror looked for: asked of upstreams, remembered, or stale because no upstream could tell.",
    ("result",),
)
MIRROR_DOWNLOADS: Final = Family(
    "harmonia_mirror_downloads_total",
    "counter",
    "Downloads of mirrored files: kept ones (hit), ones that another request had begun (followed), for one client "
    "alone (unkept); and files fetched and kept (fetched).",
    ("result",),
)
MIRROR_FAILURES: Final = Family(
    "harmonia_mirror_failures_total", "counter", "Files that were begun and could not be fetched to their end."
)
MIRROR_IMPORTS: Final = Family(
    "harmonia_mirror_imports_total",
    "counter",
    "Mirrored paths that were added to the local store (imported), or were not: the nix-daemon trusts none of their "
    "keys (untrusted), what they refer to did not come (incomplete), or another reason (failed).",
    ("result",),
)
MIRROR_IMPORT_QUEUE: Final = Family(
    "harmonia_mirror_import_queue", "gauge", "Mirrored paths that are to be added to the local store."
)
