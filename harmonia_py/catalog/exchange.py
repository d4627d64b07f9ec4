"""Tokens of an issuer, exchanged for tokens of this server that last for hours: RFC 8693.

A CI's token ends within minutes, and has some two thousand bytes. The token that it is exchanged for is opaque and
short, belongs to the same subject, allows what the rules allow at that time, and is revoked like any other.
"""

import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from harmonia_py.cache.identity import Identity
from harmonia_py.catalog.access import Access, TokenRow
from harmonia_py.catalog.audit import Audit, AuditEntry, entry_now
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.tokens import Token
from harmonia_py.errors import NotAuthenticated, NotPermitted

FindIdentity = Callable[[str], Awaitable[Identity | None]]
"""Finds the identity behind a token; None when no known issuer has signed it. Raises as `TokenExchange.exchange`."""


class Exchanged(Struct, frozen=True):
    """A token that an identity was exchanged for.

    Attributes:
        token: the new token.
        identity: of its holder, with the seconds for which it lasts.
    """

    token: Token
    identity: Identity


class TokenExchange(Struct, frozen=True, eq=False):
    """Exchanges tokens of issuers for tokens of the catalog.

    Attributes:
        find: finds the identity behind a token.
        audiences: which tokens may be made for.
        access: takes the new tokens.
        audit: is told of each.
        clock: seconds since the epoch.
    """

    find: FindIdentity
    audiences: Sequence[str]
    access: Access
    audit: Audit
    clock: Callable[[], float] = time.time

    async def exchange(self, text: str) -> Exchanged:
        """A new token for the holder of `text`.

        Raises:
            NotAuthenticated: no issuer that is known has signed `text`, or it is for another audience or time.
            NotPermitted: no rule lets it in; the message says which claims.
            UpstreamError: the keys of its issuer cannot be had.
            TooManyTokens: its holder has `MAX_OF_HOLDER` good ones.
            StorageError: the catalog cannot take it.
        """
        identity = await self.find(text)
        if identity is None:
            raise NotAuthenticated
        if not identity.grants:
            raise NotPermitted(f"Forbidden: the {identity.name} is not let in: {identity.lacks}")
        token, now = Token.generate(), self.clock()
        row = TokenRow(
            id=token.id,
            name=f"{identity.issuer}-{token.id}",
            secret_hash=token.secret_hash,
            created=Timestamp(int(now)),
            expires=Timestamp(int(now) + identity.seconds),
            holder=identity.name,
            grants=identity.grants,
        )
        await self.access.add(row)
        await self.audit.note([_entry(row, identity)])
        return Exchanged(token, identity)


def _entry(row: TokenRow, identity: Identity) -> AuditEntry:
    allowed = [{"allow": sorted(grant.actions), "caches": grant.caches} for grant in identity.grants]
    detail = {"id": row.id, "issuer": identity.issuer, "subject": identity.subject, "grants": allowed}
    return entry_now(identity.name, "token.exchange", subject=row.name, detail=detail | {"expires": row.expires})
