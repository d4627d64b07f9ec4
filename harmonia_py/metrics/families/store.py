"""The families of the local store: its nix-daemon, its damaged paths, and what is compressed of it."""

from typing import Final

from harmonia_py.metrics.family import HARMONIA_BUCKETS, Family

STORE_DAMAGED: Final = Family(
    "harmonia_damaged_paths_total",
    "counter",
    "Valid store paths whose files were found to be missing or changed; they are not served.",
)
DAEMON_ACTIVE: Final = Family(
    "harmonia_daemon_active_connections", "gauge", "Connections to the nix-daemon with a question on them."
)
DAEMON_IDLE: Final = Family(
    "harmonia_daemon_idle_connections", "gauge", "Connections to the nix-daemon that wait for a question."
)
DAEMON_CREATED: Final = Family(
    "harmonia_daemon_connections_created_total", "counter", "Attempts to connect to the nix-daemon.", ("status",)
)
DAEMON_ACQUIRE: Final = Family(
    "harmonia_daemon_connection_acquire_duration_seconds",
    "histogram",
    "How long a question waited for a connection to the nix-daemon.",
    ("outcome",),
    HARMONIA_BUCKETS,
)
DAEMON_ERRORS: Final = Family(
    "harmonia_daemon_connection_errors_total",
    "counter",
    "Questions that the nix-daemon did not answer.",
    ("error_type",),
)
COMPRESSED_DOWNLOADS: Final = Family(
    "harmonia_compressed_downloads_total",
    "counter",
    "Downloads of compressed NARs: from a kept file (hit), from one that another request had begun (followed), "
    "from one that it began (miss), or compressed for this client alone (unkept).",
    ("result",),
)
COMPRESSED_FAILURES: Final = Family(
    "harmonia_compressed_failures_total",
    "counter",
    "Compressed NARs given up: not what the store says they are (mismatch), or for another reason (error).",
    ("reason",),
)
COMPRESSED_NAR_BYTES: Final = Family(
    "harmonia_compressed_nar_bytes_total", "counter", "Bytes of NARs that were compressed and kept, before."
)
COMPRESSED_FILE_BYTES: Final = Family(
    "harmonia_compressed_file_bytes_total", "counter", "Bytes of NARs that were compressed and kept, after."
)
