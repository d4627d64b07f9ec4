"""Hashes in the notations of Nix: base-16, base-32, base-64 and SRI.

Source: `src/libutil/hash.cc` of Nix; SRI is https://www.w3.org/TR/SRI/.
"""

import base64
import binascii
import hashlib
import re
from typing import Final, Self

from msgspec import Struct

from harmonia_py.errors import FormatError
from harmonia_py.nix import base32

DIGEST_SIZES: Final = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}

_BASE16: Final = re.compile(r"(?:[0-9a-fA-F]{2})+", re.ASCII)


class Hash(Struct, frozen=True):
    """A digest and the name of its algorithm: md5, sha1, sha256 or sha512."""

    algorithm: str
    digest: bytes

    @classmethod
    def parse(cls, text: str, algorithm: str | None = None) -> Self:
        """Read `<algorithm>:<digest>`, `<algorithm>-<base-64>` (SRI), or, when `algorithm` is given, a bare digest.

        The notation of the digest is told by its length, as Nix does.

        Raises:
            FormatError: unknown algorithm, an algorithm other than the one expected, or a digest that does not parse.
        """
        name, separator, digest = text.partition(":")
        if not separator:
            name, separator, digest = text.partition("-")
            if separator:
                return cls._checked(name, algorithm, _decode_base64(digest))
            name, digest = algorithm or "", text
        return cls._checked(name, algorithm, _decode(digest, DIGEST_SIZES.get(name, 0)))

    @classmethod
    def _checked(cls, name: str, expected: str | None, digest: bytes) -> Self:
        if expected is not None and name != expected:
            raise FormatError(f"expected a {expected} hash")
        if name not in DIGEST_SIZES:
            raise FormatError("unknown hash algorithm")
        if len(digest) != DIGEST_SIZES[name]:
            raise FormatError(f"a {name} hash has {DIGEST_SIZES[name]} bytes")
        return cls(name, digest)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The SHA-256 of `data`."""
        return cls("sha256", hashlib.sha256(data).digest())

    @property
    def base16(self) -> str:
        """The digest alone, in lower-case hexadecimal."""
        return self.digest.hex()

    @property
    def nix32(self) -> str:
        """The digest alone, in Nix's base-32: 52 characters for SHA-256."""
        return base32.encode(self.digest)

    @property
    def sri(self) -> str:
        """`<algorithm>-<base-64>`."""
        return f"{self.algorithm}-{base64.b64encode(self.digest).decode()}"

    def __str__(self) -> str:
        """`<algorithm>:<base-32>`, as narinfos and fingerprints have it."""
        return f"{self.algorithm}:{self.nix32}"


def short_digest(text: str) -> str:
    """A name made of a text: 160 bits of its SHA-256 in base 32, as many as a hash part has."""
    return base32.encode(hashlib.sha256(text.encode()).digest()[:20])


def _decode(text: str, size: int) -> bytes:
    if len(text) == 2 * size and _BASE16.fullmatch(text):
        return bytes.fromhex(text)
    if len(text) == base32.encoded_length(size):
        return base32.decode(text)
    return _decode_base64(text)


def _decode_base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FormatError("invalid hash") from None
    if base64.b64encode(data).decode() != text:
        raise FormatError("base-64 string is not in its canonical form")
    return data
