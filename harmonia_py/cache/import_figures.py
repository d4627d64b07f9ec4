"""What is counted of imports."""

from dataclasses import dataclass, field
from typing import Self

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge, Metrics


@dataclass(frozen=True, slots=True)
class ImportCounters:
    """What has become of paths since the start, in this process.

    Attributes:
        imported: added to the local store.
        untrusted: left out, because the daemon trusts no key that vouches for them.
        incomplete: given up, because something that they refer to did not come.
        failed: given up for another reason.
        queued: that are to be imported.
    """

    imported: Counter = field(default_factory=Counter)
    untrusted: Counter = field(default_factory=Counter)
    incomplete: Counter = field(default_factory=Counter)
    failed: Counter = field(default_factory=Counter)
    queued: Gauge = field(default_factory=Gauge)

    @classmethod
    def on(cls, metrics: Metrics) -> Self:
        """Count them there."""
        return cls(
            imported=metrics.counter(families.MIRROR_IMPORTS, "imported"),
            untrusted=metrics.counter(families.MIRROR_IMPORTS, "untrusted"),
            incomplete=metrics.counter(families.MIRROR_IMPORTS, "incomplete"),
            failed=metrics.counter(families.MIRROR_IMPORTS, "failed"),
            queued=metrics.gauge(families.MIRROR_IMPORT_QUEUE),
        )
