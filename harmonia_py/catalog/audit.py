"""The port `Audit`: a log of changes, each with its principal and time."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol

from msgspec import Struct

_ID_BYTES: Final = 8
_NO_DETAIL: Final[Mapping[str, Any]] = MappingProxyType({})


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One change.

    Attributes:
        at_ns: when, in nanoseconds since the epoch.
        id: tells apart changes of the same time.
        principal: the name of a principal, or of a part of this program.
        action: a word: `push`, `delete`, `token.create`, `collect`, …
        cache: the name of the cache; empty when it was none.
        subject: what was changed: a store path, the name of a token, …
        detail: more of it, as JSON.
    """

    at_ns: int
    id: str
    principal: str
    action: str
    cache: str = ""
    subject: str = ""
    detail: str = "{}"


def entry_now(
    principal: str, action: str, *, cache: str = "", subject: str = "", detail: Mapping[str, Any] = _NO_DETAIL
) -> AuditEntry:
    """The entry of a change at this moment; the parameters are fields of `AuditEntry`."""
    return AuditEntry(
        at_ns=time.time_ns(),
        id=secrets.token_hex(_ID_BYTES),
        principal=principal,
        action=action,
        cache=cache,
        subject=subject,
        detail=json.dumps(dict(detail)),
    )


class Audit(Protocol):
    """The audit log. Each method raises `StorageError` when the catalog cannot tell."""

    async def note(self, entries: Sequence[AuditEntry]) -> None:
        """Add entries; one that is there already, by its time and id, is not added again."""

    async def page(self, after: tuple[int, str] | None, limit: int) -> Sequence[AuditEntry]:
        """Up to `limit` entries in the order of time, those that follow the entry with this time and id."""

    async def prune(self, before_ns: int, limit: int) -> int:
        """Remove up to `limit` entries that are older; returns how many went."""
