"""Tokens that the catalog knows: `hpy_<id>_<secret>`, of which it has the hash of the secret alone.

A secret is made of 256 random bits, so one round of SHA-256 keeps it: docs/decisions/0005-tokens-are-hashed-once.md.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import Final, Self

from harmonia_py.cache.access import Action, CachePattern, Principal
from harmonia_py.catalog.access import Access, TokenRow
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.errors import FormatError, NotAuthenticated

_PREFIX: Final = "hpy_"
# Base 32 in lower case: an id can be read aloud.
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_ID_LENGTH: Final = 10
_SECRET_BYTES: Final = 32
_TOKEN: Final = re.compile(r"hpy_([a-z2-7]{10})_([A-Za-z0-9_-]{43})", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as a client has it. It has 58 characters: libcurl reads up to 4,096 from a netrc."""

    id: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token.

        Raises:
            FormatError: it has another shape.
        """
        match = _TOKEN.fullmatch(text)
        if match is None:
            raise FormatError("not a token")
        return cls(*match.groups())

    @classmethod
    def generate(cls) -> Self:
        """A new one, from the system's random numbers."""
        token_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
        return cls(token_id, secrets.token_urlsafe(_SECRET_BYTES))

    @property
    def secret_hash(self) -> bytes:
        """The hash of the secret, which is all that the catalog keeps of it."""
        return hashlib.sha256(self.secret.encode()).digest()

    def __str__(self) -> str:
        return f"{_PREFIX}{self.id}_{self.secret}"


def new_token(
    name: str,
    actions: Collection[Action],
    patterns: Collection[CachePattern],
    *,
    now: Timestamp,
    expires: Timestamp | None,
) -> tuple[Token, TokenRow]:
    """A token for its holder, and the row for the catalog.

    Raises:
        FormatError: a name that is none.
    """
    if _NAME.fullmatch(name) is None:
        raise FormatError(f"{name!r} is no name of a token: 1 to 64 letters, digits and _.@-")
    token = Token.generate()
    row = TokenRow(
        id=token.id,
        name=name,
        secret_hash=token.secret_hash,
        actions=frozenset(actions),
        patterns=tuple(map(str, patterns)),
        created=now,
        expires=expires,
    )
    return token, row


class CatalogTokens:
    """The tokens of a catalog, an `Authenticator`.

    Args:
        access: knows them.
        clock: seconds since the epoch.
    """

    def __init__(self, access: Access, clock: Callable[[], float] = time.time) -> None:
        self._access = access
        self._clock = clock

    def takes(self, token: str) -> bool:
        """Whether it begins as tokens of a catalog do; others are for other authenticators."""
        return token.startswith(_PREFIX)

    async def principal(self, text: str) -> Principal | None:
        """As in `Authenticator`. An id that is not there and a wrong secret cost the same."""
        try:
            token = Token.parse(text)
        except FormatError:
            return None
        row = await self._access.find(token.id)
        if not hmac.compare_digest(token.secret_hash, row.secret_hash if row is not None else bytes(32)) or row is None:
            return None
        name = f"token {row.name}" if row.holder is None else row.holder
        if row.revoked is not None:
            raise NotAuthenticated(f"Unauthorized: the token {row.name} was revoked; ask for another one")
        if row.expires is not None and self._clock() >= row.expires:
            date = datetime.fromtimestamp(row.expires, UTC).date().isoformat()
            raise NotAuthenticated(f"Unauthorized: the token {row.name} expired on {date}; ask for another one")
        return Principal(name, row.all_grants, row.expires if row.expires is not None else inf, row.id)
