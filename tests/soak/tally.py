"""What a soak counts, and the first thing that was wrong; threads share it."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Attributes: `wrong` is what ended the run, `stop` is set from then on, or when the time is over."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # by what was asked for and the outcome
    slowest: dict[str, float] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    wrong: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    recent: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, what: str, outcome: str, seconds: float, size: int) -> None:
        with self._lock:
            self.answers[what, outcome] += 1
            self.slowest[what] = max(seconds, self.slowest.get(what, 0.0))
            self.bytes += size

    def happens(self, what: str) -> None:
        with self._lock:
            self.happened[what.split(maxsplit=1)[0]] += 1
            self.recent = [*self.recent[-20:], f"{time.time():.3f} {what}"]

    def fail(self, wrong: str) -> None:
        with self._lock:
            if self.wrong is None:
                self.wrong = f"{time.time():.3f} {wrong}"
        self.stop.set()

    @property
    def count(self) -> int:
        with self._lock:
            return self.answers.total()

    def outcomes(self) -> dict[str, int]:
        with self._lock:
            by_outcome: Counter[str] = Counter()
            for (_, outcome), count in self.answers.items():
                by_outcome[outcome] += count
        return dict(sorted(by_outcome.items()))
