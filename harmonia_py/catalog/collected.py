"""`Collected`: the figures of one pass of the collector."""

from msgspec import Struct


class Collected(Struct, frozen=True, kw_only=True):
    """The figures of a pass.

    Attributes:
        condemned: objects that were condemned.
        removed: objects whose rows went.
        removed_size: bytes of their files.
        revived: condemned objects that something keeps after all.
        swept: pushes that were given up.
        swept_files: files of NARs that these brought and never published.
        waited: objects that waited for their references for too long.
        deleted: keys whose bytes were deleted.
    """

    condemned: int = 0
    removed: int = 0
    removed_size: int = 0
    revived: int = 0
    swept: int = 0
    swept_files: int = 0
    waited: int = 0
    deleted: int = 0

    def __add__(self, other: "Collected") -> "Collected":
        return Collected(
            condemned=self.condemned + other.condemned,
            removed=self.removed + other.removed,
            removed_size=self.removed_size + other.removed_size,
            revived=self.revived + other.revived,
            swept=self.swept + other.swept,
            swept_files=self.swept_files + other.swept_files,
            waited=self.waited + other.waited,
            deleted=self.deleted + other.deleted,
        )
