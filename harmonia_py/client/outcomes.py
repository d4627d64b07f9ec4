"""The outcomes of a push: of each path, and of all together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from harmonia_py.nix.store_path import HashPart, StorePath


class State(StrEnum):
    """The states in which a path ends."""

    PUSHED = "pushed"
    PRESENT = "present"
    UPSTREAM = "upstream"
    FAILED = "failed"


class Outcome(Struct, frozen=True, kw_only=True):
    """The outcome of one path.

    Attributes:
        path: the path.
        state: in which it ended.
        reason: of a failure; or another remark.
        nar_size: of its NAR in bytes.
        sent: bytes that were sent for it.
        saved: bytes of its file that were not, because the cache had them as chunks of other paths.
    """

    path: StorePath
    state: State
    reason: str = ""
    nar_size: int = 0
    sent: int = 0
    saved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A push.

    Attributes:
        outcomes: of every path.
        aborted: why the push as a whole could not go on; empty when it could.
        unpinned: why the pins that were asked for are not set; empty when they are.
    """

    # Python puts the result of a task that has ended into the text of an error that it drops: a tenth of a second.
    outcomes: Sequence[Outcome] = field(repr=False)
    aborted: str = ""
    unpinned: str = ""

    @property
    def is_good(self) -> bool:
        """Whether everything is served, and kept as it was asked for."""
        return not self.aborted and not self.unpinned and not self.failures

    @property
    def failures(self) -> Sequence[Outcome]:
        """The paths that are not served."""
        return [outcome for outcome in self.outcomes if outcome.state is State.FAILED]

    @property
    def sent(self) -> int:
        """Bytes that were sent."""
        return sum(outcome.sent for outcome in self.outcomes)

    @property
    def saved(self) -> int:
        """Bytes that were not sent, because the cache had them as chunks of other paths."""
        return sum(outcome.saved for outcome in self.outcomes)

    def count(self, state: State) -> int:
        """The number of paths that ended in a state."""
        return sum(outcome.state is state for outcome in self.outcomes)


class Events(Protocol):
    """Is told of a push while it goes on."""

    def planned(self, paths: int, nar_bytes: int) -> None:
        """So much more has to be sent."""

    def advanced(self, nar_bytes: int) -> None:
        """So much more of it is sent."""


class Ledger:
    """The outcomes of a push so far.

    Args:
        sizes: the bytes of the NAR of each path.
    """

    def __init__(self, sizes: Mapping[StorePath, int]) -> None:
        self._sizes = {path.hash_part: (path, size) for path, size in sizes.items()}
        self._outcomes: dict[HashPart, Outcome] = {}

    def state(self, hash_part: HashPart) -> State | None:
        """The state of a path; None while it is open."""
        outcome = self._outcomes.get(hash_part)
        return None if outcome is None else outcome.state

    def enter(self, hash_part: HashPart, state: State, reason: str = "", sent: int = 0, saved: int = 0) -> None:
        """Note how the path stands now; bytes that were sent, or saved, add up."""
        (path, nar_size), before = self._sizes[hash_part], self._outcomes.get(hash_part)
        self._outcomes[hash_part] = Outcome(
            path=path,
            state=state,
            reason=reason,
            nar_size=nar_size,
            sent=sent + (0 if before is None else before.sent),
            saved=saved + (0 if before is None else before.saved),
        )

    def reopen(self, hash_parts: Collection[HashPart]) -> None:
        """Reopen paths that are not in the cache any more, whatever was noted."""
        for hash_part in hash_parts:
            if self.state(hash_part) is not State.FAILED:
                self._outcomes.pop(hash_part, None)

    def close(self, reason: str) -> Sequence[Outcome]:
        """The outcomes of all paths; those that are still open have failed, for this reason."""
        for hash_part in self._sizes:
            if hash_part not in self._outcomes:
                self.enter(hash_part, State.FAILED, reason)
        return [self._outcomes[hash_part] for hash_part in self._sizes]
