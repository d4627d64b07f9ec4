"""The tokens that `atticadm make-token` makes: JWTs that say themselves what they allow, so nothing is looked up.

Source: `token/src/lib.rs` of Attic. Of the permissions that a token lists, one counts for a cache: that of its name, or
else of the first pattern that matches. Those of other patterns do not add up.
"""

import re
import time
from collections.abc import Callable, Collection
from math import inf
from typing import Final, Literal

import jwt
import msgspec

from harmonia_py import json_text
from harmonia_py.attic.token_key import TokenKey
from harmonia_py.cache.access import Action, CachePattern, Grant, Principal
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.cache.jwt_shape import JWT, LEEWAY_SECONDS, MAX_LENGTH, begins_later, decoded, shown_time
from harmonia_py.errors import FormatError

_PATTERN: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9_+*-]{0,49}", re.ASCII)
_NOT_OURS: Final = "the token was not made for this server, or has been changed"

_Bit = Literal[0, 1]


class _Permission(msgspec.Struct, frozen=True):
    """`CachePermission`: each bit is the number 0 or 1; `true` makes the token invalid, as it does for Attic."""

    r: _Bit = 0
    w: _Bit = 0
    d: _Bit = 0
    cc: _Bit = 0
    cr: _Bit = 0
    cq: _Bit = 0
    cd: _Bit = 0


class _Access(msgspec.Struct, frozen=True):
    caches: dict[str, _Permission]


class _Claims(msgspec.Struct, frozen=True):
    access: _Access = msgspec.field(name="https://jwt.attic.rs/v1")
    exp: int | None = None
    nbf: int | None = None
    sub: str | None = None
    iss: str | None = None
    aud: str | list[str] | None = None


_ACTIONS: Final = {
    "r": Action.READ,
    "w": Action.PUSH,
    "d": Action.DELETE,
    "cc": Action.CREATE,
    "cr": Action.CONFIGURE,
    "cq": Action.RETENTION,
    "cd": Action.DESTROY,
}


class AtticPrincipal(Principal, frozen=True):
    """The holder of such a token: the grant of a cache's own name counts for it, or else the first that matches."""

    def may(self, action: Action, name: CacheName) -> bool:
        """As in `Principal`."""
        grant = next((grant for grant in self.grants if str(grant.caches) == name), None)
        if grant is None:
            grant = next((grant for grant in self.grants if grant.caches.matches(name)), None)
        return grant is not None and action in grant.actions


class AtticTokens:
    """The tokens that one key has signed, an `Authenticator`.

    A token that is not good opens what is open to all, as it does with Attic: a client that pulls from a public cache
    sends the token in its netrc also when that has expired. What is wrong is told with the first refusal.

    Args:
        key: with which they are verified.
        issuer: who must have made them; None for any.
        audiences: one of which tokens must be for; None: any.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        key: TokenKey,
        *,
        issuer: str | None = None,
        audiences: Collection[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._issuer = issuer
        self._audiences = None if audiences is None else frozenset(audiences)
        self._clock = clock

    def takes(self, token: str) -> bool:
        """Whether it has the shape of a JWT."""
        return len(token) <= MAX_LENGTH and JWT.fullmatch(token) is not None

    async def principal(self, token: str) -> Principal | None:
        """As in `Authenticator`."""
        claims = self._claims(token)
        if claims is None or not self._is_for_us(claims):
            return Principal("token of Attic", fault=_NOT_OURS)
        name, now = f"token {claims.sub or 'of Attic'}", self._clock()
        if claims.exp is not None and now >= claims.exp + LEEWAY_SECONDS:
            return Principal(name, fault=f"the {name} expired on {shown_time(claims.exp)}; ask for another one")
        if claims.nbf is not None and now < claims.nbf - LEEWAY_SECONDS:
            fault = begins_later(f"the {name}", claims.nbf)
            return Principal(name, fault=fault, expires=claims.nbf - LEEWAY_SECONDS)
        expires = inf if claims.exp is None else float(claims.exp + LEEWAY_SECONDS)
        return AtticPrincipal(name, _grants(claims.access), expires)

    def _claims(self, token: str) -> _Claims | None:
        """The claims of a token; None when its signature is wrong, or it has other claims than Attic's."""
        try:
            json_text.check_depth(decoded(token.partition(".")[0]))  # PyJWT parses it without a bound
            verified = jwt.PyJWS().decode_complete(token, self._key.key, algorithms=[self._key.algorithm])
            # RFC 7515, section 4.1.11: extensions that a header calls critical must be understood; none is here.
            if "crit" in verified["header"]:
                return None
            claims = json_text.decode(verified["payload"], _Claims)
        except (jwt.PyJWTError, FormatError):
            return None
        return claims if all(map(_PATTERN.fullmatch, claims.access.caches)) else None

    def _is_for_us(self, claims: _Claims) -> bool:
        if self._issuer is not None and claims.iss != self._issuer:
            return False
        theirs = [claims.aud] if isinstance(claims.aud, str) else claims.aud or []
        return self._audiences is None or not self._audiences.isdisjoint(theirs)


def _grants(access: _Access) -> tuple[Grant, ...]:
    return tuple(
        Grant(
            frozenset(action for bit, action in _ACTIONS.items() if getattr(permission, bit)),
            CachePattern(pattern),
        )
        for pattern, permission in access.caches.items()
    )
