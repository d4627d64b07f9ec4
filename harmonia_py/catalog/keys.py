"""The port `Keys`: the signing keys of caches, as they are kept at rest."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from harmonia_py.catalog.audit import AuditEntry
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.errors import HarmoniaError


class KeyExists(HarmoniaError):
    """The cache has a key of this name already."""


class KeyState(Enum):
    """The state of a key: `RETIRING` still signs beside its successor, `RETIRED` signs no more."""

    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A signing key of a cache.

    Attributes:
        cache: that signs with it.
        name: as signatures have it.
        public_key: as clients trust it, `<name>:<base-64>`.
        secret: the secret half and the name of the cache, as `catalog.key_encryption` writes them.
        encryption: the scheme in which `secret` is encrypted; empty: it is in the clear.
        state: whether it still signs.
        created: when it was made.
        until: when it stops signing; None while nothing is planned.
    """

    cache: CacheId
    name: str
    public_key: str
    secret: bytes = field(repr=False)
    encryption: str
    state: KeyState
    created: Timestamp
    until: Timestamp | None = None

    def signs(self, now: Timestamp) -> bool:
        """Whether it signs what is served at this time."""
        return self.state is not KeyState.RETIRED and (self.until is None or now < self.until)


class Keys(Protocol):
    """The signing keys. Each method raises `StorageError` when the catalog cannot tell."""

    async def of(self, cache: CacheId) -> Sequence[KeyRow]:
        """All keys of a cache, the oldest first."""

    async def add(self, key: KeyRow, entry: AuditEntry, *, retire_others: Timestamp | None = None) -> None:
        """Take in a new key, with an entry of the audit log, in one transaction.

        With `retire_others` the active ones sign beside it until then.

        Raises:
            KeyExists: the cache has one of this name.
        """

    async def retire(self, cache: CacheId, name: str, entry: AuditEntry, *, until: Timestamp, now: Timestamp) -> bool:
        """Let a key sign until then, or, when that is not later than `now`, no more; False when there is none.

        The same transaction writes `entry` to the audit log, if there is such a key.
        """

    async def end_overlaps(self, *, now: Timestamp) -> bool:
        """Let the keys of all caches whose time has come sign no more; False, at little cost, when there are none."""
