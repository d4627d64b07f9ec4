"""What a soak says of itself: a line now and then, a table at the end, and the same as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from soak.journal import Line
from soak.samples import Sample
from soak.tally import Tally

_MIB: Final = 1024 * 1024


def progress(seconds: float, tally: Tally, samples: Sequence[Sample]) -> str:
    outcomes = ", ".join(f"{outcome} {count:,}" for outcome, count in tally.outcomes().items())
    happened = ", ".join(f"{what} {count}" for what, count in sorted(tally.happened.items()))
    held = _held(samples[-1]) if samples else ""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} {tally.count:,} answers ({outcomes}); {happened}; {held}"


def _held(sample: Sample) -> str:
    return f"{sample.private / _MIB:.1f} MiB, {sample.descriptors} descriptors, {sample.threads} threads"


@dataclass(frozen=True, slots=True)
class Report:
    """Attributes: `rest` is what is held when all is over; `grown` is what `samples.growth` found."""

    seconds: float
    seed: int
    tally: Tally
    samples: Sequence[Sample]
    rest: Sample
    lines: Sequence[Line]
    grown: Sequence[str]

    @property
    def is_good(self) -> bool:
        return self.tally.wrong is None and not self.grown

    def text(self) -> str:
        tally = self.tally
        lines = ["", f"{'asked for':<22}{'answers':>10}{'slowest':>10}  outcomes"]
        for what in sorted({what for what, _ in tally.answers}):
            counts = {outcome: count for (of, outcome), count in sorted(tally.answers.items()) if of == what}
            told = ", ".join(f"{outcome}: {count:,}" for outcome, count in counts.items())
            lines.append(f"{what:<22}{sum(counts.values()):>10,}{tally.slowest[what]:>8.2f} s  {told}")
        total = f"{tally.count:,} answers, {tally.bytes / _MIB:,.0f} MiB of bodies in {self.seconds:,.0f} s"
        lines += ["", total, ", ".join(f"{what}: {count}" for what, count in sorted(tally.happened.items()))]
        lines += [f"{name:<10}{_held(sample)}" for name, sample in self._moments().items()]
        if not self.is_good:
            lines += ["", *self._trouble()]
        lines += ["", "good" if self.is_good else f"NOT GOOD (seed {self.seed})"]
        return "\n".join(lines)

    def _moments(self) -> dict[str, Sample]:
        if not self.samples:
            return {}
        return {
            "start": self.samples[0],
            "middle": self.samples[len(self.samples) // 2],
            "end": self.samples[-1],
            "at rest": self.rest,
        }

    def _trouble(self) -> list[str]:
        lines = [f"grown: {one}" for one in self.grown]
        if self.tally.wrong is not None:
            lines += [self.tally.wrong, "", "what happened before:", *self.tally.recent, "", "what the service said:"]
            lines += [f"{line.at:.3f} {line.program}: {line.text}" for line in self.lines[-40:]]
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "good": self.is_good,
            "seconds": round(self.seconds, 1),
            "seed": self.seed,
            "wrong": self.tally.wrong,
            "grown": list(self.grown),
            "answers": [
                {"asked_for": what, "outcome": outcome, "count": count}
                for (what, outcome), count in sorted(self.tally.answers.items())
            ],
            "slowest_seconds": {what: round(seconds, 3) for what, seconds in sorted(self.tally.slowest.items())},
            "body_bytes": self.tally.bytes,
            "happened": dict(sorted(self.tally.happened.items())),
            "rest": asdict(self.rest),
            "samples": [asdict(sample) for sample in self.samples],
        }
