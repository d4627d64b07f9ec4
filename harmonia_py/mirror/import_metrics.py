"""The counters of imports."""

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.counters import Counters, counted, gauged


class ImportCounters(Counters, frozen=True):
    """Paths by the outcome of their import, since the start, in this process.

    Attributes:
        imported: paths that were added to the local store.
        untrusted: paths that were left out, because the daemon trusts no key that vouches for them.
        incomplete: paths that were given up, because a reference did not come.
        failed: paths that were given up for another reason.
        queued: paths that are still to be imported.
    """

    imported: Counter = counted(families.upstreams.MIRROR_IMPORTS, "imported")
    untrusted: Counter = counted(families.upstreams.MIRROR_IMPORTS, "untrusted")
    incomplete: Counter = counted(families.upstreams.MIRROR_IMPORTS, "incomplete")
    failed: Counter = counted(families.upstreams.MIRROR_IMPORTS, "failed")
    queued: Gauge = gauged(families.upstreams.MIRROR_IMPORT_QUEUE)
