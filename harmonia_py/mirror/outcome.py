"""The conclusion from the answers of several upstreams, when none has what was asked for."""

from collections.abc import Iterable, Sequence
from enum import Enum, auto

from harmonia_py.errors import Overloaded, UpstreamUnreachable


class Outcome(Enum):
    """The kinds of an upstream's answer that is not the thing itself."""

    ABSENT = auto()  # it said so itself
    REFUSED = auto()  # it has something that must not be served
    UNKNOWN = auto()  # time-outs, refused connections, errors, garbage
    NOT_ASKED = auto()  # too many other questions were under way


class OnUnknown(Enum):
    """The setting for what a client is told when no upstream can tell and there is no copy."""

    AUTO = "auto"  # an error while an upstream may still answer, otherwise not found, so that work offline goes on
    NOT_FOUND = "not-found"
    ERROR = "error"


class NoUpstreamAnswered(UpstreamUnreachable):
    """No upstream could tell, in time or at all."""


def conclude(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of all: `ABSENT` only when every upstream that could have the thing said so itself."""
    found = set(outcomes)
    if Outcome.NOT_ASKED in found:
        return Outcome.NOT_ASKED
    return Outcome.UNKNOWN if Outcome.UNKNOWN in found else Outcome.ABSENT


def check_absent(outcomes: Iterable[Outcome], what: str) -> None:
    """Return when no upstream has what was asked for.

    Raises:
        NoUpstreamAnswered: one that could have it cannot tell; the message names `what`.
        Overloaded: one that could have it was not asked.
    """
    outcome = conclude(outcomes)
    if outcome is Outcome.NOT_ASKED:
        raise Overloaded("too many questions to an upstream are under way")
    if outcome is Outcome.UNKNOWN:
        raise NoUpstreamAnswered(what)


def is_not_found(on_unknown: OnUnknown, breakers_open: Sequence[bool]) -> bool:
    """Whether a client hears "not found" when no upstream can tell, and not an error after which it asks again."""
    if on_unknown is OnUnknown.AUTO:
        return all(breakers_open)
    return on_unknown is OnUnknown.NOT_FOUND
