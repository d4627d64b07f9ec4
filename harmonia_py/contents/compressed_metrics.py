"""The counters of compressing."""

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter
from harmonia_py.metrics.counters import Counters, counted


class CompressedCounters(Counters, frozen=True):
    """Downloads of compressed NARs since the start, in this process.

    Attributes:
        hits: downloads from a kept file.
        followed: downloads from a file that another request had begun.
        misses: downloads that began a file.
        unkept: downloads compressed for one client alone, because nothing could be kept.
        mismatches: NARs that were not what the store says.
        failures: files that were begun and not finished for another reason.
        nar_bytes: uncompressed bytes of the files finished.
        file_bytes: compressed bytes of the files finished.
    """

    hits: Counter = counted(families.store.COMPRESSED_DOWNLOADS, "hit")
    followed: Counter = counted(families.store.COMPRESSED_DOWNLOADS, "followed")
    misses: Counter = counted(families.store.COMPRESSED_DOWNLOADS, "miss")
    unkept: Counter = counted(families.store.COMPRESSED_DOWNLOADS, "unkept")
    mismatches: Counter = counted(families.store.COMPRESSED_FAILURES, "mismatch")
    failures: Counter = counted(families.store.COMPRESSED_FAILURES, "error")
    nar_bytes: Counter = counted(families.store.COMPRESSED_NAR_BYTES)
    file_bytes: Counter = counted(families.store.COMPRESSED_FILE_BYTES)
