"""What is counted of imports."""

from dataclasses import dataclass

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.figures import Figures, counted, gauged


@dataclass(frozen=True, slots=True)
class ImportCounters(Figures):
    """What has become of paths since the start, in this process.

    Attributes:
        imported: added to the local store.
        untrusted: left out, because the daemon trusts no key that vouches for them.
        incomplete: given up, because something that they refer to did not come.
        failed: given up for another reason.
        queued: that are to be imported.
    """

    imported: Counter = counted(families.MIRROR_IMPORTS, "imported")
    untrusted: Counter = counted(families.MIRROR_IMPORTS, "untrusted")
    incomplete: Counter = counted(families.MIRROR_IMPORTS, "incomplete")
    failed: Counter = counted(families.MIRROR_IMPORTS, "failed")
    queued: Gauge = gauged(families.MIRROR_IMPORT_QUEUE)
