"""The families of kept files: lost ones, checks, the room that they take, and copies in front of a bucket."""

from typing import Final

from harmonia_py.metrics.family import Family

HOT_FILES: Final = Family(
    "harmonia_hot_files_total",
    "counter",
    "Files of the bucket of which copies are kept here: opened as a copy (hit), or in the bucket (miss).",
    ("result",),
)
HOT_COPIED_BYTES: Final = Family("harmonia_hot_copied_bytes_total", "counter", "Bytes of copies that were made.")
HOT_EVICTED_BYTES: Final = Family(
    "harmonia_hot_evicted_bytes_total", "counter", "Bytes of copies that went for others."
)
HOT_BYTES: Final = Family("harmonia_hot_bytes", "gauge", "Bytes of all copies, on their way or whole.", merge="max")
QUARANTINED_FILES: Final = Family(
    "harmonia_quarantined_files_total", "counter", "Kept files found to be missing or wrong.", ("directory",)
)
HIDDEN_PATHS: Final = Family(
    "harmonia_hidden_paths_total", "counter", "Paths hidden, as such a file is in their closure.", ("directory",)
)
QUARANTINED: Final = Family(
    "harmonia_files_in_quarantine", "gauge", "Kept files that are missing or wrong now.", ("directory",)
)
HIDDEN: Final = Family(
    "harmonia_paths_in_quarantine",
    "gauge",
    "Paths that are hidden, as such a file is in their closure.",
    ("directory",),
)
SCRUBBED_FILES: Final = Family(
    "harmonia_scrubbed_files_total",
    "counter",
    "Kept files read again, to see whether they are right.",
    ("directory",),
)
SCRUBBED_BYTES: Final = Family(
    "harmonia_scrubbed_bytes_total", "counter", "Bytes of kept files that were read again.", ("directory",)
)
SCRUB_FAULTS: Final = Family(
    "harmonia_scrub_faults_total",
    "counter",
    "Kept files that were read again, and were not what they had been.",
    ("directory",),
)
SCRUB_AGE: Final = Family(
    "harmonia_scrub_age_seconds", "gauge", "Since the longest unread kept file was read.", ("directory",), merge="max"
)
CACHE_BLOBS: Final = Family(
    "harmonia_cache_blobs", "gauge", "Files in the directory `cache` or `mirror`, at the last look.", ("directory",)
)
CACHE_BYTES: Final = Family(
    "harmonia_cache_size_bytes",
    "gauge",
    "The size of the files in the directory `cache` or `mirror`, at the last look.",
    ("directory",),
)
CACHE_EVICTED_BLOBS: Final = Family("harmonia_cache_evicted_blobs_total", "counter", "Files evicted.", ("directory",))
CACHE_EVICTED_BYTES: Final = Family(
    "harmonia_cache_evicted_bytes_total", "counter", "The size of files evicted.", ("directory",)
)
