"""What happens to the service during a soak, and when: a function from a seed and a length to events."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Happening(StrEnum):
    """What is done to the service, or to what it depends on."""

    BUILD = "build"  # new paths in the store, without a root
    COLLECT = "collect"  # nix-collect-garbage
    RELOAD = "reload"
    RESTART = "restart"  # of the nix-daemon
    STOP_DAEMON = "stop"  # its socket as well, for a second
    KILL_DAEMON = "kill"  # all its processes, and with them the temporary roots
    FLAP = "flap"  # an upstream fails in one way, for a while
    SUBSTITUTE = "substitute"  # a real Nix client, into an empty store


class Fault(StrEnum):
    """How an upstream fails."""

    GONE = "gone"  # connections are refused
    HANGS = "hangs"  # connections are accepted, and nothing comes
    ERRORS = "errors"  # 500
    CUTS = "cuts"  # every file ends in its middle
    LIES = "lies"  # every file has other bytes


@dataclass(frozen=True, slots=True)
class Event:
    """Attributes: seconds after the beginning; what; for a flap, which upstream, how, and for how many seconds."""

    at: float
    what: Happening
    upstream: str = ""
    fault: Fault | None = None
    seconds: float = 0.0


NGINX: Final = "nginx"
FAULTY: Final = "faulty"

# Seconds between two of a kind, on the average.
_EVERY: Final = {
    Happening.BUILD: 6.0,
    Happening.COLLECT: 13.0,
    # What is wrong with what is remembered shall have time to show: a reload forgets it.
    Happening.RELOAD: 15.0,
    Happening.SUBSTITUTE: 17.0,
    Happening.RESTART: 29.0,
    Happening.STOP_DAEMON: 47.0,
    Happening.KILL_DAEMON: 71.0,
}
# After a flap an upstream is left alone for a minute, so with more of them there would be little time without doubt.
_FLAP_EVERY: Final = 240.0
# In a short run all flaps come in its second half: the first is without doubt.
_SHORT: Final = 2 * _FLAP_EVERY
# The end is quiet, so that what began before can end.
_QUIET_SECONDS: Final = 5.0

_FLAPS: Final = (
    (NGINX, Fault.GONE),
    (NGINX, Fault.HANGS),
    (FAULTY, Fault.ERRORS),
    (FAULTY, Fault.CUTS),
    (FAULTY, Fault.LIES),
    (FAULTY, Fault.HANGS),
)


def plan(seed: int, seconds: float) -> list[Event]:
    """The events in their order; equal ones for an equal seed and length."""
    chance = random.Random(seed)
    events = [Event(at, what) for what, every in _EVERY.items() for at in _times(chance, every, seconds)]
    events += _flaps(chance, seconds)
    last = seconds - _QUIET_SECONDS
    return sorted((event for event in events if event.at + event.seconds < last), key=lambda event: event.at)


def _times(chance: random.Random, every: float, seconds: float) -> Iterator[float]:
    at = every * chance.uniform(0.3, 0.7)
    while at < seconds:
        yield at
        at += every * chance.uniform(0.7, 1.3)


def _flaps(chance: random.Random, seconds: float) -> Iterator[Event]:
    if seconds < _SHORT:
        times = [seconds * (0.5 + 0.07 * number) for number in range(len(_FLAPS))]
        longest = seconds * 0.06
    else:
        times = [float(at) for at in _times(chance, _FLAP_EVERY, seconds)]
        longest = 12.0
    for number, at in enumerate(times):
        upstream, fault = _FLAPS[number % len(_FLAPS)]
        yield Event(at, Happening.FLAP, upstream, fault, min(longest, chance.uniform(3.0, 12.0)))
