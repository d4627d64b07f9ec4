"""The counters of pushes."""

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter
from harmonia_py.metrics.counters import Counters, counted


class PushCounters(Counters, frozen=True):
    """Pushes since the start, of this process, over all caches.

    Attributes:
        files: files of NARs that arrived whole and right.
        bytes: their bytes, compressed.
        published: paths that readers see, or saw already.
        waiting: paths that arrived before one of their references.
        kept_first: paths that were there with another NAR, which stays.
        refused: narinfos and files whose claims were wrong.
    """

    files: Counter = counted(families.pushed.PUSHED_FILES)
    bytes: Counter = counted(families.pushed.PUSHED_BYTES)
    published: Counter = counted(families.pushed.PUSHED_PATHS, "published")
    waiting: Counter = counted(families.pushed.PUSHED_PATHS, "waiting")
    kept_first: Counter = counted(families.pushed.PUSHED_PATHS, "kept_first")
    refused: Counter = counted(families.pushed.PUSHED_PATHS, "refused")
