"""The families of each cache: of `default` and of a hundred others by their names, and of all further ones together."""

from typing import Final

from harmonia_py.metrics.family import CACHE_LABEL, Family

CACHES_KEPT_PATHS: Final = Family(
    "harmonia_caches_kept_paths", "gauge", "Store paths that a cache has that is pushed to.", (CACHE_LABEL,)
)
CACHES_KEPT_BYTES: Final = Family(
    "harmonia_caches_kept_bytes",
    "gauge",
    "The size of the files of these, also of files that it shares.",
    (CACHE_LABEL,),
)
CACHES_MAX_BYTES: Final = Family(
    "harmonia_caches_max_bytes", "gauge", "The `max_size` of a cache; none, or 0, without a limit.", (CACHE_LABEL,)
)
CACHES_NARINFOS: Final = Family(
    "harmonia_caches_narinfos_total",
    "counter",
    "Narinfos that clients asked a cache for: it has the path (found), or has not (absent).",
    (CACHE_LABEL, "result"),
)
CACHES_PUSHED_NARS: Final = Family(
    "harmonia_caches_pushed_nars_total", "counter", "NARs that were pushed to a cache, whole and right.", (CACHE_LABEL,)
)
