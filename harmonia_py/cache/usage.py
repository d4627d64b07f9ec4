"""The use of one cache, as a worker counts it."""

from http import HTTPStatus
from typing import Final

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter
from harmonia_py.metrics.counters import Counters, counted

_FOUND: Final = frozenset({HTTPStatus.OK, HTTPStatus.NOT_MODIFIED})


class CacheUsage(Counters, frozen=True):
    """The use of one cache since the start, by this process.

    Attributes:
        found: narinfos that it had when clients asked for them.
        absent: narinfos that it had not.
        pushed_nars: NARs that arrived whole and right.
    """

    found: Counter = counted(families.caches.CACHES_NARINFOS, "found")
    absent: Counter = counted(families.caches.CACHES_NARINFOS, "absent")
    pushed_nars: Counter = counted(families.caches.CACHES_PUSHED_NARS)

    def asked(self, status: int) -> None:
        """Count a request for a narinfo that was answered with this status; one that failed tells nothing."""
        if status in _FOUND:
            self.found.add()
        elif status == HTTPStatus.NOT_FOUND:
            self.absent.add()
