"""The counters of a mirror."""

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter
from harmonia_py.metrics.counters import Counters, counted


class MirrorCounters(Counters, frozen=True):
    """Questions and downloads since the start, in this process.

    Attributes:
        narinfos_asked: questions that went to upstreams.
        narinfos_remembered: answers from memory or disk.
        narinfos_stale: answers from a copy, because no upstream could tell.
        hits: downloads of kept files.
        followed: downloads of files that another request had begun.
        fetched: files fetched and kept.
        passed: downloads for one client alone, because nothing could be kept.
        failures: files that were begun and could not be finished.
    """

    narinfos_asked: Counter = counted(families.upstreams.MIRROR_NARINFOS, "asked")
    narinfos_remembered: Counter = counted(families.upstreams.MIRROR_NARINFOS, "remembered")
    narinfos_stale: Counter = counted(families.upstreams.MIRROR_NARINFOS, "stale")
    hits: Counter = counted(families.upstreams.MIRROR_DOWNLOADS, "hit")
    followed: Counter = counted(families.upstreams.MIRROR_DOWNLOADS, "followed")
    fetched: Counter = counted(families.upstreams.MIRROR_DOWNLOADS, "fetched")
    passed: Counter = counted(families.upstreams.MIRROR_DOWNLOADS, "unkept")
    failures: Counter = counted(families.upstreams.MIRROR_FAILURES)
