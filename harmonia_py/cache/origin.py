"""Where a narinfo came from: told to people, never to Nix.

A type of its own instead of a field of `NarInfo`, which is a format; sources that know nothing of it stay as they are.
"""

from dataclasses import dataclass
from typing import Final

from harmonia_py.nix.narinfo import NarInfo

LOCAL: Final = "local"
KEPT: Final = "kept"
STALE: Final = "stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedNarInfo(NarInfo):
    """A narinfo that is not the local store's.

    Attributes:
        origin: `kept`, `stale`, or `upstream NAME`.
    """

    origin: str


def origin_of(narinfo: NarInfo) -> str:
    """`local`, or what the source said."""
    return narinfo.origin if isinstance(narinfo, SourcedNarInfo) else LOCAL
