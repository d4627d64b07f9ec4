"""`Found`, the answer of a source about a store path: its narinfo, with its origin and its validity."""

from typing import Final

from msgspec import Struct

from harmonia_py.cache.validity import Validity
from harmonia_py.nix.narinfo import NarInfo


class Origin(Struct, frozen=True):
    """The origin of a narinfo. Every source says it, because our signature depends on it.

    Attributes:
        label: in words for people; Nix never sees it.
        vouches_for_nar: whether the NarHash was computed from bytes on this machine: by the local store when it
            registered the path, or by us for this cache. Otherwise it is what an upstream says, and only a signature
            of the upstream, or a content address that is the NarHash, makes it true.
    """

    label: str
    vouches_for_nar: bool

    @property
    def is_kept(self) -> bool:
        """Whether the NAR came from an upstream and is kept here."""
        return self in (KEPT, STALE)


LOCAL: Final = Origin("local", vouches_for_nar=True)
# An upstream's words and its NAR, which was held against them and is kept.
KEPT: Final = Origin("kept", vouches_for_nar=False)
# The copy of an upstream's words that is served because no upstream can be asked now.
STALE: Final = Origin("stale", vouches_for_nar=False)


def from_upstream(name: str) -> Origin:
    """The origin of a narinfo that the upstream `name` has just given, of a path whose NAR is not here."""
    return Origin(f"upstream {name}", vouches_for_nar=False)


def through_another(origin: Origin) -> Origin:
    """The origin of what a cache has from another one, which has it from `origin`. It does not name that cache."""
    return Origin("another cache", origin.vouches_for_nar)


class Found(Struct, frozen=True):
    """A store path that a source has.

    Attributes:
        narinfo: with the signatures that the source knows.
        origin: of the narinfo.
        validity: how long the answer is right; None when the source cannot tell.
    """

    narinfo: NarInfo
    origin: Origin
    validity: Validity | None
