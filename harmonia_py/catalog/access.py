"""The port `Access`: tokens, of which only hashes of their secrets are kept."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.cache.access import Action, CachePattern, Grant
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.errors import HarmoniaError


class TokenExists(HarmoniaError):
    """A token of this name is there already and is not revoked."""


class TooManyTokens(HarmoniaError):
    """The holder of the token has `MAX_OF_HOLDER` good ones already."""


MAX_OF_HOLDER: Final = 10_000
"""Good tokens of one holder: enough for a repository that runs a hundred jobs, a hundred times in twelve hours."""


class TokenRow(Struct, frozen=True, kw_only=True):
    """A token.

    Attributes:
        id: the part of the token that is no secret.
        name: for people; unique among those that are not revoked.
        secret_hash: SHA-256 of the secret part, 32 bytes.
        actions: what the token allows, in the caches of `patterns`.
        patterns: of names of caches.
        created: when it was made.
        expires: when it ends; None for never.
        used: when it was last used, as far as the catalog was told.
        revoked: when it was revoked.
        holder: the identity that was exchanged for the token; None for a token that was made by hand.
        grants: further permissions, beside `actions` in `patterns`.
    """

    id: str
    name: str
    secret_hash: bytes
    actions: frozenset[Action] = frozenset()
    patterns: tuple[str, ...] = ()
    created: Timestamp
    expires: Timestamp | None = None
    used: Timestamp | None = None
    revoked: Timestamp | None = None
    holder: str | None = None
    grants: tuple[Grant, ...] = ()

    @property
    def all_grants(self) -> tuple[Grant, ...]:
        """All permissions of the token."""
        return (*(Grant(self.actions, CachePattern(pattern)) for pattern in self.patterns), *self.grants)

    def is_good(self, now: Timestamp) -> bool:
        """Whether the token is valid at this time: neither expired nor revoked."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class Access(Protocol):
    """The tokens. Each method raises `StorageError` when the catalog cannot tell."""

    async def find(self, token_id: str) -> TokenRow | None:
        """The token with this id, also one that is not good any more."""

    async def page(self, after: str | None, limit: int) -> Sequence[TokenRow]:
        """Up to `limit` tokens in the order of their ids, those that follow `after`."""

    async def add(self, token: TokenRow) -> None:
        """Take in a new token; one that has a holder sweeps out some of those that expired a day ago.

        Raises:
            TokenExists: its name is taken.
            TooManyTokens: its holder has `MAX_OF_HOLDER` that are good at the time when it was made.
        """

    async def revoke(self, name: str, *, now: Timestamp, of_holder: bool = False) -> int:
        """End the token of this name, or all unexpired ones of the holder of this name; returns how many were ended.

        A holder that is still let in gets another one: the rule that lets it in goes first.
        """

    async def used(self, last_uses: Mapping[str, Timestamp]) -> None:
        """Note when tokens, by their ids, were last used: a batch."""
