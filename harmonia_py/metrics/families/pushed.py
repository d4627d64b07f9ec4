"""The families of pushes, and of what is kept of them."""

from typing import Final

from harmonia_py.metrics.family import Family

PUSHED_FILES: Final = Family(
    "harmonia_pushed_files_total", "counter", "Files of NARs that were pushed, whole and right."
)
PUSHED_BYTES: Final = Family(
    "harmonia_pushed_bytes_total", "counter", "Bytes of files of NARs that were pushed, as they were compressed."
)
PUSHED_PATHS: Final = Family(
    "harmonia_pushed_paths_total",
    "counter",
    "Store paths that were pushed, and what became of them.",
    ("result",),
)
PUSHES_SWEPT: Final = Family(
    "harmonia_swept_pushes_total", "counter", "Pushes that showed no sign of life for a day, and were given up."
)
PUSHED_FILES_SWEPT: Final = Family(
    "harmonia_swept_files_total", "counter", "Files of NARs that pushes had brought which were given up."
)
COLLECTED_PATHS: Final = Family(
    "harmonia_collected_paths_total", "counter", "Store paths that caches do not have any more: unused, or too many."
)
COLLECTED_BYTES: Final = Family(
    "harmonia_collected_bytes_total", "counter", "The size of the files of paths that caches do not have any more."
)
COLLECTED_FILES: Final = Family(
    "harmonia_deleted_files_total", "counter", "Files that no cache named any more, which were deleted."
)
KEPT_PATHS: Final = Family(
    "harmonia_kept_paths",
    "gauge",
    "Store paths that caches have that are pushed to, at the last collection.",
    ("state",),
)
KEPT_BYTES: Final = Family(
    "harmonia_kept_bytes",
    "gauge",
    "The size of the files of paths that caches have, without paths that wait.",
    ("state",),
)
PINS: Final = Family("harmonia_pins", "gauge", "Pins of all caches.")
PINNED_PATHS: Final = Family("harmonia_pinned_paths", "gauge", "Store paths that a pin names and keeps.")
GARBAGE_FILES: Final = Family(
    "harmonia_garbage_files", "gauge", "Files that no cache names, which are not deleted yet."
)
COLLECTION_TIME: Final = Family(
    "harmonia_last_collection_seconds", "gauge", "When the last whole collection ended, since the epoch.", merge="max"
)
