"""The plan of what to condemn for want of room: decided from values alone."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.collection import Candidate
from harmonia_py.catalog.retention import Decision, kept_since

# Once room is made, a little more than needed is, so that the next file does not make it necessary again.
_SLACK: Final = 0.05


class Limits(Struct, frozen=True, kw_only=True):
    """The limits of the room that files may take.

    Attributes:
        max_size: bytes of all of them together; None for as much as `min_free` allows.
        min_free: bytes of the file system that stay free for others.
    """

    max_size: int | None = None
    min_free: int = 0


def excess(size: int, limits: Limits, free: int, *, wanted: int = 0) -> int:
    """How many bytes must go: 0 when both limits hold, otherwise a little more than they demand.

    Args:
        size: bytes of files that stay, without those of condemned objects.
        limits: that are to hold.
        free: bytes of the file system that are free, or will be when condemned objects have gone.
        wanted: bytes of a further file that is to fit within `max_size`.
    """
    too_much = 0
    if limits.max_size is not None:
        # Nothing goes for a file that can never fit: the limit was larger when it was refused.
        needed = size + (wanted if wanted <= limits.max_size else 0)
        if needed > limits.max_size:
            too_much = needed - int(limits.max_size * (1 - _SLACK))
    if free < limits.min_free:
        too_much = max(too_much, int(limits.min_free * (1 + _SLACK)) - free)
    return too_much


def plan_quota(candidates: Iterable[Candidate], too_much: int, *, now: Timestamp) -> Decision:
    """Condemn what nothing keeps, the longest unused first, until so many bytes go.

    Args:
        candidates: the longest unused first. Objects that only the condemned ones kept come up later.
        too_much: bytes to free, from `excess`.
        now: the time.
    """
    condemn, size, age = set(), 0, {}
    for candidate in candidates:
        since = kept_since(candidate, now)
        if since is not None:
            if since > candidate.aged_from:
                age[candidate.hash_part] = since
        elif size < too_much:
            condemn.add(candidate.hash_part)
            size += candidate.size
    return Decision(condemn=frozenset(condemn), size=size, age=age)
