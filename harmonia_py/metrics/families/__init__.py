"""Every family of series on `/metrics`, a file for each part. The dashboards and the reference are checked against it.

The names of the first two and of the daemon's pool, their labels and their buckets are those of Harmonia 3
(harmonia-cache/src/prometheus.rs, the pool's metrics.rs), so its dashboards go on working.
"""

from typing import Final

from harmonia_py.metrics.families import caches, chunks, http, kept, processes, pushed, store, upstreams
from harmonia_py.metrics.family import Family

__all__ = ["FAMILIES", "caches", "chunks", "http", "kept", "processes", "pushed", "store", "upstreams"]

_PARTS: Final = (http, store, pushed, caches, kept, chunks, upstreams, processes)
FAMILIES: Final = tuple(one for part in _PARTS for one in vars(part).values() if isinstance(one, Family))
