"""The findings of a NAR, kept as JSON in the catalog between the upload of its file and the narinfo that follows.

Another worker may get the narinfo, hours later, so this is no object in memory.
"""

import json
from typing import Final, Self

from msgspec import Struct

from harmonia_py.cache.tree import BuildId
from harmonia_py.contents.nar_facts import NarFacts
from harmonia_py.nix.store_path import HashPart

# Most listings have a few kilobytes. One up to this long is part of the findings, and later of the catalog; a longer
# one is a file beside that of the NAR.
MAX_INLINE_LISTING: Final = 32 * 1024


class Findings(Struct, frozen=True, kw_only=True):
    """The facts of a NAR that its narinfo is held against, or that documents are made of.

    Attributes:
        candidates: the hash parts that stand in the NAR.
        has_all_candidates: False when there were too many of them to remember.
        debug_files: the ids of the builds whose debug information it has.
        listing_size: bytes of its listing.
        listing: its listing, unless that is long.
    """

    candidates: frozenset[HashPart]
    has_all_candidates: bool
    debug_files: tuple[BuildId, ...]
    listing_size: int
    listing: str | None

    @property
    def all_candidates(self) -> frozenset[HashPart] | None:
        """The hash parts that stand in the NAR; None when there were too many to know them all."""
        return self.candidates if self.has_all_candidates else None

    @classmethod
    def of(cls, facts: NarFacts) -> Self:
        """The findings from the facts of a NAR."""
        is_short = facts.listing.size <= MAX_INLINE_LISTING
        return cls(
            candidates=facts.candidates,
            has_all_candidates=facts.has_all_candidates,
            debug_files=facts.debug_files,
            listing_size=facts.listing.size,
            listing=b"".join(facts.listing.portions()).decode() if is_short else None,
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `format` wrote."""
        value = json.loads(text)
        return cls(
            candidates=frozenset(map(HashPart, value["candidates"].split())),
            has_all_candidates=value["has_all_candidates"],
            debug_files=tuple(map(BuildId, value["debug_files"].split())),
            listing_size=value["listing_size"],
            listing=value["listing"],
        )

    def format(self) -> str:
        """The JSON."""
        value = {
            "candidates": " ".join(sorted(self.candidates)),
            "has_all_candidates": self.has_all_candidates,
            "debug_files": " ".join(self.debug_files),
            "listing_size": self.listing_size,
            "listing": self.listing,
        }
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
