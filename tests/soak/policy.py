"""The oracle: which answers the policy allows at a moment.

What may be in doubt is noted while it is (`Weather`); a request is judged by what was in doubt at any time between its
beginning and its end. Whatever is not allowed here is an error of the service, and a whole body with wrong bytes
always is: that is nobody's to allow.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from soak.plan import FAULTY, NGINX

from harmonia_py.mirror.breaker import OPEN_SECONDS

# docs/explanation/garbage.md: "gone for clients within seconds".
GONE_SECONDS: Final = 8.0
# A worker that found no daemon has it again at the next question; those that waited for it are answered by then.
DAEMON_RECOVERY_SECONDS: Final = 8.0
# An upstream that failed is left alone; the next question shows that it is back. What was being fetched has ended.
UPSTREAM_RECOVERY_SECONDS: Final = OPEN_SECONDS + 20.0

CUT: Final = "cut"


class Doubt(Enum):
    """Who cannot be relied upon."""

    DAEMON = auto()
    ROOTS = auto()  # the daemon's processes were killed: what they protected is not protected any more
    COLLECTION = auto()
    NGINX = auto()
    FAULTY = auto()


UPSTREAMS: Final = {NGINX: Doubt.NGINX, FAULTY: Doubt.FAULTY}


class Origin(Enum):
    """Where a path is."""

    NOWHERE = auto()
    STORE = auto()
    DOOMED = auto()  # in the store, until the next collection
    NGINX = auto()
    FAULTY = auto()
    SERVICE = auto()  # what the service says of itself


class Kind(Enum):
    """What is asked for."""

    NARINFO = auto()
    NAR = auto()
    DOCUMENT = auto()


@dataclass
class Weather:
    """What is in doubt, and was: spans of time, as `time.time` tells it. Threads share it."""

    _spans: dict[Doubt, list[list[float]]] = field(default_factory=lambda: {doubt: [] for doubt in Doubt})
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begins(self, doubt: Doubt, now: float) -> list[float]:
        span = [now, math.inf]
        with self._lock:
            self._spans[doubt].append(span)
        return span

    def touches(self, doubt: Doubt, begin: float, end: float) -> bool:
        """Whether `doubt` was there at any time from `begin` to `end`."""
        with self._lock:
            return any(span[0] <= end and span[1] >= begin for span in self._spans[doubt])

    def during(self, begin: float, end: float) -> frozenset[Doubt]:
        return frozenset(doubt for doubt in Doubt if self.touches(doubt, begin, end))

    def until(self) -> float:
        """When nothing is in doubt any more, as far as is known now."""
        with self._lock:
            return max((span[1] for spans in self._spans.values() for span in spans), default=0.0)


@contextmanager
def doubted(weather: Weather, *doubts: Doubt, recovery: float = 0.0) -> Iterator[None]:
    """These are in doubt, and for `recovery` seconds after."""
    spans = [weather.begins(doubt, time.time()) for doubt in doubts]
    try:
        yield
    finally:
        for span in spans:
            span[1] = time.time() + recovery


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has been answered.

    Attributes:
        collected: from when on a doomed path may be gone, and since when it is, if it is.
    """

    origin: Origin
    kind: Kind
    began: float
    ended: float
    good: frozenset[str]
    collected: tuple[float, float] | None = None


def allowed(asked: Asked, weather: Weather) -> frozenset[str]:
    """The outcomes that the policy allows: statuses, and `CUT`."""
    doubts = weather.during(asked.began, asked.ended)
    if asked.origin is Origin.SERVICE:
        return asked.good
    outcomes = set(asked.good)
    if Doubt.DAEMON in doubts:
        outcomes.add("503")
    unknown = {"404", "502"}
    if asked.origin is Origin.NOWHERE:
        outcomes = (outcomes - asked.good) | {"404"}
        if doubts & {Doubt.NGINX, Doubt.FAULTY}:
            outcomes |= unknown
    elif asked.origin in _MIRRORED:
        if _MIRRORED[asked.origin] in doubts:
            # 503 is for who followed a download of another client that was given up: the next one may go well.
            outcomes |= unknown | ({CUT, "503"} if asked.kind is Kind.NAR else set())
    elif asked.collected is not None:
        outcomes |= _of_collected(asked, asked.collected, doubts)
        if asked.kind is not Kind.NAR and asked.began > asked.collected[1] + GONE_SECONDS:
            outcomes -= asked.good
    return frozenset(outcomes)


_MIRRORED: Final = {Origin.NGINX: Doubt.NGINX, Origin.FAULTY: Doubt.FAULTY}


def _of_collected(asked: Asked, collected: tuple[float, float], doubts: frozenset[Doubt]) -> set[str]:
    """What may be said of a path that a collection takes or has taken."""
    if asked.ended < collected[0]:
        return set()
    outcomes = {"404"}
    if doubts & {Doubt.NGINX, Doubt.FAULTY}:
        outcomes.add("502")
    # A download is protected by a temporary root, for as long as the process of the daemon that holds it lives.
    if asked.kind is Kind.NAR and Doubt.ROOTS in doubts:
        outcomes |= {CUT, "500"}
    return outcomes
