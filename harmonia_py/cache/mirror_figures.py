"""What is counted of a mirror."""

from dataclasses import dataclass, field
from typing import Self

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Metrics


@dataclass(frozen=True, slots=True)
class MirrorCounters:
    """What has happened since the start, in this process.

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

    narinfos_asked: Counter = field(default_factory=Counter)
    narinfos_remembered: Counter = field(default_factory=Counter)
    narinfos_stale: Counter = field(default_factory=Counter)
    hits: Counter = field(default_factory=Counter)
    followed: Counter = field(default_factory=Counter)
    fetched: Counter = field(default_factory=Counter)
    passed: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)

    @classmethod
    def on(cls, metrics: Metrics) -> Self:
        """Count them there."""
        return cls(
            narinfos_asked=metrics.counter(families.MIRROR_NARINFOS, "asked"),
            narinfos_remembered=metrics.counter(families.MIRROR_NARINFOS, "remembered"),
            narinfos_stale=metrics.counter(families.MIRROR_NARINFOS, "stale"),
            hits=metrics.counter(families.MIRROR_DOWNLOADS, "hit"),
            followed=metrics.counter(families.MIRROR_DOWNLOADS, "followed"),
            fetched=metrics.counter(families.MIRROR_DOWNLOADS, "fetched"),
            passed=metrics.counter(families.MIRROR_DOWNLOADS, "unkept"),
            failures=metrics.counter(families.MIRROR_FAILURES),
        )
