"""The counters of the copies in front of a bucket."""

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.counters import Counters, counted, gauged


class HotCounters(Counters, frozen=True):
    """Copies since the start, in this process, and their present size.

    Attributes:
        hits: files of which a copy was opened.
        misses: files that may be copied, and were opened in the bucket.
        copied_bytes: bytes of the copies that were made.
        evicted_bytes: bytes of the copies that were evicted.
        bytes: bytes of all copies, those of other processes as well.
    """

    hits: Counter = counted(families.kept.HOT_FILES, "hit")
    misses: Counter = counted(families.kept.HOT_FILES, "miss")
    copied_bytes: Counter = counted(families.kept.HOT_COPIED_BYTES)
    evicted_bytes: Counter = counted(families.kept.HOT_EVICTED_BYTES)
    bytes: Gauge = gauged(families.kept.HOT_BYTES)
