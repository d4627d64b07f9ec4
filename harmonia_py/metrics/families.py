"""Every family of series on `/metrics`, in one table. The dashboards and the reference are checked against it.

The names of the first two and of the daemon's pool, their labels and their buckets are those of Harmonia 3
(harmonia-cache/src/prometheus.rs, the pool's metrics.rs), so its dashboards go on working.
"""

from typing import Final

from harmonia_py.metrics.family import Family

_HARMONIA_BUCKETS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
# A first download may wait for its turn to be compressed.
_WAITING_BUCKETS: Final = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)


_REQUEST_LABELS: Final = ("method", "path", "status")

# Not counted for itself: it is the count of the histogram below.
HTTP_REQUESTS: Final = Family("harmonia_http_requests_total", "counter", "Requests answered.", _REQUEST_LABELS)
HTTP_REQUEST_DURATION: Final = Family(
    "harmonia_http_request_duration_seconds",
    "histogram",
    "From the first byte of a request to the last of its answer.",
    _REQUEST_LABELS,
    _HARMONIA_BUCKETS,
)
HTTP_FIRST_BYTE: Final = Family(
    "harmonia_http_time_to_first_byte_seconds",
    "histogram",
    "From the request of a download to the first byte of its content.",
    ("path",),
    _WAITING_BUCKETS,
)
HTTP_SENT_BYTES: Final = Family("harmonia_http_sent_bytes_total", "counter", "Bytes sent, headers included.", ("kind",))
HTTP_CONNECTIONS: Final = Family("harmonia_http_connections", "gauge", "Connections of clients that are open.")
TRANSFERS_IN_FLIGHT: Final = Family("harmonia_transfers_in_flight", "gauge", "Downloads that are being sent.")
TRANSFERS_ABORTED: Final = Family(
    "harmonia_transfers_aborted_total",
    "counter",
    "Downloads cut before their end: the client left or stood still, the bytes could not be had, or the server ended.",
    ("reason",),
)

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
    _HARMONIA_BUCKETS,
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
    "Passes of the job that makes chunks, and looks after packs, that could not go on.",
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

BUILD_INFO: Final = Family("harmonia_build_info", "gauge", "Always 1; the version of harmonia-py.", ("version",))
WORKERS: Final = Family("harmonia_workers", "gauge", "Worker processes that run.")
WORKER_CPU: Final = Family("harmonia_worker_cpu_seconds_total", "counter", "CPU time of a worker.", ("worker",))
WORKER_RSS: Final = Family(
    "harmonia_worker_resident_memory_bytes", "gauge", "Memory of a worker, with what it shares.", ("worker",)
)
WORKER_FDS: Final = Family("harmonia_worker_open_fds", "gauge", "Open descriptors of a worker.", ("worker",))
WORKER_START: Final = Family(
    "harmonia_worker_start_time_seconds", "gauge", "When a worker started, in Unix time.", ("worker",)
)

# What every exporter calls them; over all processes, the supervisor and the workers that have ended included.
PROCESS_CPU: Final = Family("process_cpu_seconds_total", "counter", "CPU time of all processes.")
PROCESS_RSS: Final = Family("process_resident_memory_bytes", "gauge", "Memory; what processes share counts for each.")
PROCESS_VIRTUAL: Final = Family("process_virtual_memory_bytes", "gauge", "Address space of all processes.")
PROCESS_FDS: Final = Family("process_open_fds", "gauge", "Open descriptors of all processes.")
PROCESS_MAX_FDS: Final = Family("process_max_fds", "gauge", "How many descriptors one process may have.")
PROCESS_START: Final = Family("process_start_time_seconds", "gauge", "When the first process started, in Unix time.")

# Each series of these is a series in the memory that the workers share.
COUNTED: Final = (
    HTTP_REQUEST_DURATION,
    HTTP_FIRST_BYTE,
    HTTP_SENT_BYTES,
    HTTP_CONNECTIONS,
    TRANSFERS_IN_FLIGHT,
    TRANSFERS_ABORTED,
    STORE_DAMAGED,
    DAEMON_ACTIVE,
    DAEMON_IDLE,
    DAEMON_CREATED,
    DAEMON_ACQUIRE,
    DAEMON_ERRORS,
    COMPRESSED_DOWNLOADS,
    COMPRESSED_FAILURES,
    COMPRESSED_NAR_BYTES,
    COMPRESSED_FILE_BYTES,
    PUSHED_FILES,
    PUSHED_BYTES,
    PUSHED_PATHS,
    PUSHES_SWEPT,
    PUSHED_FILES_SWEPT,
    COLLECTED_PATHS,
    COLLECTED_BYTES,
    COLLECTED_FILES,
    KEPT_PATHS,
    KEPT_BYTES,
    PINS,
    PINNED_PATHS,
    GARBAGE_FILES,
    COLLECTION_TIME,
    QUARANTINED_FILES,
    HIDDEN_PATHS,
    QUARANTINED,
    HIDDEN,
    SCRUBBED_FILES,
    SCRUBBED_BYTES,
    SCRUB_FAULTS,
    SCRUB_AGE,
    CACHE_BLOBS,
    CACHE_BYTES,
    CACHE_EVICTED_BLOBS,
    CACHE_EVICTED_BYTES,
    CHUNKED_FILES,
    CHUNKED_BYTES,
    PACKS,
    PACK_BYTES,
    DEDUPLICATED_FILES,
    DEDUPLICATED_BYTES,
    DEDUPLICATION_ERRORS,
    DEDUPLICATION_WAITING,
    DEDUPLICATION_TIME,
    HOT_FILES,
    HOT_COPIED_BYTES,
    HOT_EVICTED_BYTES,
    HOT_BYTES,
    UPSTREAM_REQUESTS,
    UPSTREAM_ERRORS,
    UPSTREAM_BYTES,
    UPSTREAM_BREAKER,
    MIRROR_NARINFOS,
    MIRROR_DOWNLOADS,
    MIRROR_FAILURES,
    MIRROR_IMPORTS,
    MIRROR_IMPORT_QUEUE,
)
FAMILIES: Final = (
    HTTP_REQUESTS,
    *COUNTED,
    BUILD_INFO,
    WORKERS,
    WORKER_CPU,
    WORKER_RSS,
    WORKER_FDS,
    WORKER_START,
    PROCESS_CPU,
    PROCESS_RSS,
    PROCESS_VIRTUAL,
    PROCESS_FDS,
    PROCESS_MAX_FDS,
    PROCESS_START,
)
