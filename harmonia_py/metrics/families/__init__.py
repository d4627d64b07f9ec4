"""Every family of series on `/metrics`, a file for each part. The dashboards and the reference are checked against it.

The names of the first two and of the daemon's pool, their labels and their buckets are those of Harmonia 3
(harmonia-cache/src/prometheus.rs, the pool's metrics.rs), so its dashboards go on working.
"""

from typing import Final

from harmonia_py.metrics.families import caches, chunks, http, kept, processes, pushed, store, upstreams

__all__ = ["COUNTED", "FAMILIES", "caches", "chunks", "http", "kept", "processes", "pushed", "store", "upstreams"]

# Each series of these is a series in the memory that the workers share.
COUNTED: Final = (
    *http.COUNTED,
    *store.COUNTED,
    *pushed.COUNTED,
    *caches.COUNTED,
    *kept.COUNTED,
    *chunks.COUNTED,
    *upstreams.COUNTED,
)
FAMILIES: Final = (http.HTTP_REQUESTS, *COUNTED, *processes.FAMILIES)
