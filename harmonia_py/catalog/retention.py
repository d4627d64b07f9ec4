"""The plans of what to condemn for its age, and of what to remove: decided from values alone.

A use of a path is a use of its references, so a closure ages as one: while an object is referenced, its own age does
not matter; after that it counts from the last use of what referenced it.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.collection import Candidate
from harmonia_py.nix.store_path import HashPart


class Decision(Struct, frozen=True, kw_only=True):
    """The fate of candidates.

    Attributes:
        condemn: candidates to condemn.
        size: bytes of their files.
        age: later times from which the ages of others count, so that these do not come up again before others.
    """

    condemn: frozenset[HashPart] = frozenset()
    size: int = 0
    age: Mapping[HashPart, Timestamp] = field(default_factory=dict)


def plan_retention(candidates: Iterable[Candidate], *, unused_since: Timestamp, now: Timestamp) -> Decision:
    """Condemn candidates that nothing keeps and nothing has used after `unused_since`."""
    condemn, size, age = set(), 0, {}
    for candidate in candidates:
        since = kept_since(candidate, now)
        if since is None:
            if candidate.aged_from <= unused_since:
                condemn.add(candidate.hash_part)
                size += candidate.size
        elif since > candidate.aged_from:
            age[candidate.hash_part] = since
    return Decision(condemn=frozenset(condemn), size=size, age=age)


def kept_since(candidate: Candidate, now: Timestamp) -> Timestamp | None:
    """From when the age of a kept candidate counts; None when only its last use keeps it."""
    if candidate.pinned or candidate.leased:
        return now
    return candidate.referrer_aged_from


class Condemnation(Struct, frozen=True, kw_only=True):
    """A condemned object whose grace is over.

    Attributes:
        hash_part: of its path.
        kept: whether something keeps it after all: a pin, a lease, a use, an object that is not condemned.
        referrers: objects that reference it and are still there.
    """

    hash_part: HashPart
    kept: bool
    referrers: tuple[HashPart, ...]


class Removal(Struct, frozen=True, kw_only=True):
    """The fate of condemned objects; those in neither field wait for objects that reference them.

    Attributes:
        going: objects to remove.
        kept: objects to revive.
    """

    going: tuple[HashPart, ...]
    kept: frozenset[HashPart]


def plan_removal(condemnations: Iterable[Condemnation]) -> Removal:
    """Decide from the top: an object goes when everything that references it has gone.

    Args:
        condemnations: each object before those that it references.
    """
    going: dict[HashPart, None] = {}
    kept: set[HashPart] = set()
    for one in condemnations:
        if one.kept or any(referrer in kept for referrer in one.referrers):
            kept.add(one.hash_part)
        elif all(referrer in going for referrer in one.referrers):
            going[one.hash_part] = None
    return Removal(going=tuple(going), kept=frozenset(kept))
