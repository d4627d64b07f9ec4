"""Why an object is kept: a plan that asks for its keepers, level by level, and performs no I/O."""

from collections.abc import Collection, Generator, Mapping
from enum import Enum

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.objects import Keepers
from harmonia_py.nix.store_path import HashPart


class KeptBy(Enum):
    """The reasons for which an object itself is kept, apart from objects that reference it.

    Attributes:
        WAITING: it waits for references, and keeps those that are here until then.
    """

    PIN = "pin"
    SESSION = "session"
    WAITING = "waiting"
    USE = "use"


class WhyKept(Struct, frozen=True, kw_only=True):
    """The shortest reason for which an object is kept.

    Attributes:
        path: from an object that is kept for a reason of its own down to this one, each referencing the next.
        by: the reason of the first object in `path`.
        name: of the pin, or the id of the session; empty for another reason.
    """

    path: tuple[HashPart, ...]
    by: KeptBy
    name: str = ""


def why_kept(
    hash_part: HashPart, unused_since: Timestamp | None
) -> Generator[Collection[HashPart], Mapping[HashPart, Keepers], WhyKept | None]:
    """The shortest reason for which an object is kept; None when there is none.

    The generator yields hash parts, and is sent what keeps each.

    Args:
        hash_part: the object.
        unused_since: objects that were used later are kept; None: objects are kept however long unused.
    """
    below: dict[HashPart, HashPart | None] = {hash_part: None}
    level: Collection[HashPart] = (hash_part,)
    while level:
        keepers = yield level
        for one in sorted(keepers):
            reason = _own_reason(keepers[one], unused_since)
            if reason is not None:
                return WhyKept(path=_path(one, below), by=reason[0], name=reason[1])
        following: dict[HashPart, None] = {}
        for one in sorted(keepers):
            for referrer in keepers[one].referrers:
                if referrer not in below:
                    below[referrer] = one
                    following[referrer] = None
        level = tuple(following)
    return None


def _own_reason(keepers: Keepers, unused_since: Timestamp | None) -> tuple[KeptBy, str] | None:
    if keepers.pins:
        return KeptBy.PIN, keepers.pins[0]
    if keepers.waits:
        return KeptBy.WAITING, ""
    if keepers.sessions:
        return KeptBy.SESSION, keepers.sessions[0]
    if unused_since is None or keepers.used > unused_since:
        return KeptBy.USE, ""
    return None


def _path(top: HashPart, below: Mapping[HashPart, HashPart | None]) -> tuple[HashPart, ...]:
    path = [top]
    while (following := below[path[-1]]) is not None:
        path.append(following)
    return tuple(path)
