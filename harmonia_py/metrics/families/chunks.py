"""The families of files that are made of chunks."""

from typing import Final

from harmonia_py.metrics.family import Family

CHUNKED_FILES: Final = Family("harmonia_chunked_files", "gauge", "Files that are made of chunks.", ("directory",))
CHUNKED_BYTES: Final = Family(
    "harmonia_chunked_former_bytes",
    "gauge",
    "Bytes that files made of chunks took before, as whole files.",
    ("directory",),
)
PACKS: Final = Family("harmonia_packs", "gauge", "Packs: the files in which chunks are.", ("directory",))
PACK_BYTES: Final = Family(
    "harmonia_pack_bytes",
    "gauge",
    "Bytes of packs, used or unused by files when each pack was last looked at.",
    ("directory", "state"),
)
DEDUPLICATED_FILES: Final = Family(
    "harmonia_deduplicated_files_total",
    "counter",
    "Files that became chunks (chunks), or stay as they are, as they cannot be read, cut or made again (left).",
    ("directory", "result"),
)
DEDUPLICATED_BYTES: Final = Family(
    "harmonia_deduplicated_nar_bytes_total", "counter", "Bytes of the NARs that became chunks.", ("directory",)
)
DEDUPLICATION_ERRORS: Final = Family(
    "harmonia_deduplication_errors_total",
    "counter",
    "Passes of the job that makes chunks, and looks after packs, that could not go on, and packs that were set aside "
    "because they could not be read.",
    ("directory",),
)
DEDUPLICATION_WAITING: Final = Family(
    "harmonia_deduplication_waiting_paths",
    "gauge",
    "Paths that the job has not looked at yet, though they may be kept as chunks; 100000 for more as well.",
    ("directory",),
)
DEDUPLICATION_TIME: Final = Family(
    "harmonia_last_deduplication_seconds",
    "gauge",
    "When the job last ended a pass, since the epoch.",
    ("directory",),
    merge="max",
)
