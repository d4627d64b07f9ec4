"""What is counted of compressing."""

from dataclasses import dataclass, field
from typing import Self

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Metrics


@dataclass(frozen=True, slots=True)
class CompressedCounters:
    """What has happened since the start, in this process.

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

    hits: Counter = field(default_factory=Counter)
    followed: Counter = field(default_factory=Counter)
    misses: Counter = field(default_factory=Counter)
    unkept: Counter = field(default_factory=Counter)
    mismatches: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)
    nar_bytes: Counter = field(default_factory=Counter)
    file_bytes: Counter = field(default_factory=Counter)

    @classmethod
    def on(cls, metrics: Metrics) -> Self:
        """Count them there."""
        return cls(
            hits=metrics.counter(families.COMPRESSED_DOWNLOADS, "hit"),
            followed=metrics.counter(families.COMPRESSED_DOWNLOADS, "followed"),
            misses=metrics.counter(families.COMPRESSED_DOWNLOADS, "miss"),
            unkept=metrics.counter(families.COMPRESSED_DOWNLOADS, "unkept"),
            mismatches=metrics.counter(families.COMPRESSED_FAILURES, "mismatch"),
            failures=metrics.counter(families.COMPRESSED_FAILURES, "error"),
            nar_bytes=metrics.counter(families.COMPRESSED_NAR_BYTES),
            file_bytes=metrics.counter(families.COMPRESSED_FILE_BYTES),
        )
