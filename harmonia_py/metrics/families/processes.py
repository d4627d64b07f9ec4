"""The families of processes: each request for `/metrics` reads their figures anew."""

from typing import Final

from harmonia_py.metrics.family import Family

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
