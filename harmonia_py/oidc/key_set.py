"""The keys of an issuer, as its JSON Web Key Set has them: RFC 7517, RFC 7518 section 6, RFC 8037.

A key is good for one algorithm alone, which follows from its type: so a public key is never the secret of HS256, and
no token says by which algorithm it wants to be verified.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.exceptions import PyJWTError
from jwt.utils import base64url_decode, from_base64url_uint

from harmonia_py import json_text
from harmonia_py.errors import FormatError

# Issuers have two to ten: the one that signs, those before it, and the next.
MAX_KEYS: Final = 100
_RSA_BITS: Final = range(2048, 8193)
_COORDINATE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, and the one algorithm for which it is used.

    Attributes:
        algorithm: RS256, ES256 or EdDSA.
        key: as PyJWT takes it.
    """

    algorithm: str
    key: Any = field(repr=False)


KeySet = Mapping[tuple[str, str], VerificationKey]
"""Keys by their `kid` and algorithm: RFC 7517, section 4.5, lets keys of different types share a `kid`."""


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None
    n: str = ""
    e: str = ""
    crv: str = ""
    x: str = ""
    y: str = ""


class _Set(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


def parse_key_set(data: bytes) -> KeySet:
    """The keys in `data` for algorithms that are taken here; others are left out, as RFC 7517, section 5, wants it.

    Raises:
        FormatError: it is no JWK Set, or one of more than 100 keys.
    """
    try:
        raw = json_text.decode(data, _Set).keys
    except FormatError:
        raise FormatError("its keys are not a JWK Set") from None
    if len(raw) > MAX_KEYS:
        raise FormatError(f"it has {len(raw)} keys; {MAX_KEYS} are taken at the most")
    keys = {}
    for one in raw:
        try:
            jwk = msgspec.json.decode(one, type=_Jwk)
            key = _verification_key(jwk)
        except (msgspec.DecodeError, PyJWTError, ValueError):
            continue
        if jwk.kid is not None and key is not None and jwk.use in (None, "sig"):
            keys[jwk.kid, key.algorithm] = key
    return keys


def _verification_key(jwk: _Jwk) -> VerificationKey | None:
    """The key; None when it is for something else. Raises ValueError or PyJWTError when its numbers make no key."""
    match jwk.kty, jwk.crv, jwk.alg:
        case "RSA", _, None | "RS256":
            public = rsa.RSAPublicNumbers(from_base64url_uint(jwk.e), from_base64url_uint(jwk.n)).public_key()
            return VerificationKey("RS256", public) if public.key_size in _RSA_BITS else None
        case "EC", "P-256", None | "ES256":
            x, y = base64url_decode(jwk.x), base64url_decode(jwk.y)
            if len(x) != _COORDINATE_BYTES or len(y) != _COORDINATE_BYTES:
                return None
            point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + x + y)
            return VerificationKey("ES256", point)
        case "OKP", "Ed25519", None | "EdDSA" | "Ed25519":
            return VerificationKey("EdDSA", Ed25519PublicKey.from_public_bytes(base64url_decode(jwk.x)))
    return None
