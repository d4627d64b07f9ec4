"""ID tokens, verified: JWTs that an issuer has signed with a key of its own. RFC 7519, RFC 8725.

Of a header only `alg` and `kid` count, to choose among the keys of the issuer that the configuration names: where it
says itself that keys are (`jku`, `x5u`, `jwk`) is not looked at.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import jwt
import msgspec
from msgspec import Struct

from harmonia_py import json_text
from harmonia_py.cache.identity import Identity, IdentityRule, identity_of
from harmonia_py.cache.jwt_shape import JWT, LEEWAY_SECONDS, MAX_LENGTH, begins_later, decoded, shown_time
from harmonia_py.errors import FormatError, NotAuthenticated
from harmonia_py.oidc.issuer import Issuer, normal_url

_ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str
    crit: msgspec.Raw | None = None


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    nbf: float = 0
    iat: float = 0


class _IssuerClaim(msgspec.Struct, frozen=True):
    iss: str


class TrustedIssuer(Struct, frozen=True, kw_only=True):
    """An issuer, and what its tokens are good for.

    Attributes:
        name: under which it is configured.
        issuer: has its keys.
        audience: for which its tokens must be made.
        rules: grant actions to its tokens.
    """

    name: str
    issuer: Issuer
    audience: str
    rules: Sequence[IdentityRule]


class IdTokens:
    """The tokens of some issuers, an `Authenticator`.

    Args:
        issuers: who makes them; no two have one URL.
        clock: seconds since the epoch.
    """

    def __init__(self, issuers: Sequence[TrustedIssuer], clock: Callable[[], float] = time.time) -> None:
        self._issuers = {trusted.issuer.url: trusted for trusted in issuers}
        self._clock = clock

    @property
    def audiences(self) -> Sequence[str]:
        """The audiences for which tokens may be made, each once."""
        return list(dict.fromkeys(trusted.audience for trusted in self._issuers.values()))

    def named(self, name: str) -> TrustedIssuer:
        """The issuer that is configured under this name."""
        return next(trusted for trusted in self._issuers.values() if trusted.name == name)

    def takes(self, token: str) -> bool:
        """Whether it has the shape of a JWT, and says that one of the issuers made it."""
        return self.said_issuer(token) is not None

    async def principal(self, token: str) -> Identity | None:
        """As in `Authenticator`: whose token it is; None when its signature is not right.

        Raises:
            NotAuthenticated: the token is signed, and for another audience or time.
            UpstreamError: the issuer's keys cannot be had.
        """
        trusted = self.said_issuer(token)
        verified = None if trusted is None else await _verified(token, trusted.issuer)
        if trusted is None or verified is None:
            return None
        try:
            claims = json_text.decode(verified, _Claims)
            everything: dict[str, Any] = json_text.decode(verified, dict)
        except FormatError:
            raise NotAuthenticated(f"Unauthorized: the token of {trusted.name} lacks claims of an ID token") from None
        self._check(claims, trusted)
        expires = claims.exp + LEEWAY_SECONDS
        return identity_of(trusted.name, claims.sub, everything, trusted.rules, expires=expires)

    def said_issuer(self, token: str) -> TrustedIssuer | None:
        """The configured issuer that `token` names, without any verification; None when it names another one."""
        match = JWT.fullmatch(token) if len(token) <= MAX_LENGTH else None
        if match is None:
            return None
        try:
            said = json_text.decode(decoded(match[1]), _IssuerClaim)
        except FormatError:
            return None
        return self._issuers.get(normal_url(said.iss))

    def _check(self, claims: _Claims, trusted: TrustedIssuer) -> None:
        """Check that the claims are for this server and this time. The holder of a signed token may know of both."""
        now, name = self._clock(), f"the token of {trusted.name}"
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if trusted.audience not in audiences:
            raise NotAuthenticated(f"Unauthorized: {name} is for another audience than {trusted.audience}")
        if now >= claims.exp + LEEWAY_SECONDS:
            raise NotAuthenticated(f"Unauthorized: {name} expired at {shown_time(claims.exp)}; ask for another one")
        begins = max(claims.nbf, claims.iat)
        if now < begins - LEEWAY_SECONDS:
            raise NotAuthenticated(f"Unauthorized: {begins_later(name, begins)}")


def claims_without_trust(token: str) -> dict[str, Any]:
    """The claims of a token, not verified: for people, and for no decision.

    Raises:
        FormatError: it is no token.
    """
    match = JWT.fullmatch(token)
    try:
        if match is not None:
            return json_text.decode(decoded(match[1]), dict)
    except FormatError:
        pass
    raise FormatError("this is no token of a CI")


async def _verified(token: str, issuer: Issuer) -> bytes | None:
    """The payload of a token that a key of the issuer has signed; None for any other."""
    try:
        header = json_text.decode(decoded(token.partition(".")[0]), _Header)
    except FormatError:
        return None
    # RFC 7515, section 4.1.11: extensions that a header calls critical must be understood; none is here.
    if header.alg not in _ALGORITHMS or header.crit is not None:
        return None
    key = await issuer.key(header.kid, header.alg)
    if key is None:
        return None
    try:
        payload: bytes = jwt.PyJWS().decode_complete(token, key.key, algorithms=[key.algorithm])["payload"]
    except jwt.PyJWTError:
        return None
    return payload
