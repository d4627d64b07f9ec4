"""The key that verifies tokens of Attic, in the form in which atticd takes it: base 64 of a secret, or of a PEM.

Source: `decode_token_hs256_secret_base64` and its kin in `token/src/lib.rs`.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from harmonia_py.errors import FormatError

# The limits of jwt-simple, with which Attic verifies.
_MIN_RSA_BITS: Final = 2048
_MIN_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key, and the one algorithm for which it is used: a public key is never the secret of HS256.

    Attributes:
        algorithm: of the signatures.
        key: as PyJWT takes it.
    """

    algorithm: Literal["HS256", "RS256"]
    key: Any = field(repr=False)

    @classmethod
    def parse_hs256_secret(cls, text: str) -> Self:
        """Read `ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64`.

        Raises:
            FormatError: it is not base 64, or so short that it could be guessed.
        """
        secret = _decode(text)
        if len(secret) < _MIN_SECRET_BYTES:
            raise FormatError(f"a secret of HS256 has {_MIN_SECRET_BYTES} bytes or more (RFC 7518, section 3.2)")
        return cls("HS256", secret)

    @classmethod
    def parse_rs256_secret(cls, text: str) -> Self:
        """Read `ATTIC_SERVER_TOKEN_RS256_SECRET_BASE64`: of the private key the public half is kept.

        Raises:
            FormatError: it is not base 64 of the PEM of an RSA key of 2048 bits or more.
        """
        try:
            key = load_pem_private_key(_decode(text), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise FormatError("not base 64 of the PEM of a private RSA key") from None
        return cls("RS256", _checked(key.public_key()))

    @classmethod
    def parse_rs256_public_key(cls, text: str) -> Self:
        """Read `ATTIC_SERVER_TOKEN_RS256_PUBKEY_BASE64`.

        Raises:
            FormatError: it is not base 64 of the PEM of an RSA key of 2048 bits or more.
        """
        try:
            key = load_pem_public_key(_decode(text))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise FormatError("not base 64 of the PEM of a public RSA key") from None
        return cls("RS256", _checked(key))


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise FormatError("not base 64") from None


def _checked(key: object) -> rsa.RSAPublicKey:
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_RSA_BITS:
        raise FormatError(f"not an RSA key of {_MIN_RSA_BITS} bits or more")
    return key
