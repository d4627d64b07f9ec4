"""The port `Pins`: names in a cache that keep closures, with revisions."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, Self

from msgspec import Struct
from msgspec.structs import asdict, replace

from harmonia_py.catalog.caches import CacheId, Timestamp, iso
from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import HashPart, StorePath

DAY: Final = 86_400

# One segment of a URL, and none that a browser would take for a directory.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", re.ASCII)


class PinName(str):
    """The name of a pin in a cache: `release`, `nightly-x86_64`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name.

        Raises:
            FormatError: it is none.
        """
        if _NAME.fullmatch(text) is None:
            raise FormatError("not the name of a pin: 1 to 100 letters, digits and _.+-, the first a letter or a digit")
        return cls(text)


class PinRule(Struct, frozen=True, kw_only=True):
    """The rule by which revisions of a pin keep their closures. The newest always does, others by any of the fields.

    Attributes:
        keep_revisions: how many of the newest keep theirs.
        keep_seconds: for how long after it was set a revision keeps its closure.
        keep_forever: whether all do.
    """

    keep_revisions: int = 1
    keep_seconds: int = 0
    keep_forever: bool = False

    @property
    def words(self) -> str:
        """The rule for people: `the newest 5, and 30 days`."""
        if self.keep_forever:
            return "all, for ever"
        newest = "the newest" if self.keep_revisions <= 1 else f"the newest {self.keep_revisions}"
        return newest if not self.keep_seconds else f"{newest}, and those of {self.keep_seconds / DAY:g} days"


class PinRuleChange(Struct, frozen=True, kw_only=True):
    """A change of a rule; a field that is None stays as it is, or, for a new pin, as `PinRule` has it."""

    keep_revisions: int | None = None
    keep_seconds: int | None = None
    keep_forever: bool | None = None

    def of(self, rule: PinRule) -> PinRule:
        """The rule after the change."""
        return replace(rule, **{name: value for name, value in asdict(self).items() if value is not None})


class PinRevision(Struct, frozen=True, kw_only=True):
    """A path that a pin names, or named.

    Attributes:
        cache: of the pin.
        name: of the pin.
        revision: its number, from 1.
        path: that it names.
        set_by: the name of the principal.
        set_at: when it was set; None while the path is not published yet.
    """

    cache: CacheId
    name: PinName
    revision: int
    path: StorePath
    set_by: str
    set_at: Timestamp | None

    @property
    def hash_part(self) -> HashPart:
        """The hash part of the path."""
        return self.path.hash_part

    def to_json(self, *, tells_who: bool = True) -> Mapping[str, Any]:
        """The revision as JSON; without `tells_who` `set_by` is null, for it is the name of a token or a user."""
        set_by = self.set_by if tells_who else None
        return {"revision": self.revision, "path": self.path, "set": iso(self.set_at), "set_by": set_by}


class Pin(Struct, frozen=True, kw_only=True):
    """A pin, with its newest revisions.

    Attributes:
        name: of the pin.
        rule: by which its revisions keep their closures.
        newest: the newest revision that is set, where the pin leads; None while none is.
        waiting: a newer revision whose path is not published yet; None when there is none.
    """

    name: PinName
    rule: PinRule
    newest: PinRevision | None
    waiting: PinRevision | None

    def to_json(self, *, tells_who: bool = True) -> Mapping[str, Any]:
        """The pin as JSON, as the command and the API give it; `tells_who` as in `PinRevision.to_json`."""
        return {
            "name": self.name,
            "keep_revisions": self.rule.keep_revisions,
            "keep_days": self.rule.keep_seconds / DAY,
            "keep_forever": self.rule.keep_forever,
            "newest": None if self.newest is None else self.newest.to_json(tells_who=tells_who),
            "waiting": None if self.waiting is None else self.waiting.to_json(tells_who=tells_who),
        }


class Pins(Protocol):
    """The pins. Each method raises `StorageError` when the catalog cannot tell."""

    async def set(
        self,
        cache: CacheId,
        name: PinName,
        path: StorePath,
        change: PinRuleChange | None = None,
        *,
        set_by: str,
        now: Timestamp,
    ) -> PinRevision:
        """Make a new revision, and change the rule of the pin.

        A revision of a path that is not published waits, and is set in the transaction that publishes the path. Setting
        the path that the newest revision has changes only the rule. Revisions that keep nothing are forgotten when
        they are older than the newest thousand.
        """

    async def find(self, cache: CacheId, name: PinName) -> Pin | None:
        """The pin of this name."""

    async def page(self, cache: CacheId, after: PinName | None, limit: int) -> Sequence[Pin]:
        """Up to `limit` pins in the order of their names, those that follow `after`."""

    async def revisions(self, cache: CacheId, name: PinName, *, now: Timestamp) -> Sequence[tuple[PinRevision, bool]]:
        """All revisions that are left of a pin, the newest first, each with whether it keeps its closure."""

    async def remove(self, cache: CacheId, name: PinName, *, removed_by: str, now: Timestamp) -> bool:
        """Remove a pin with all its revisions; False when there is none."""
