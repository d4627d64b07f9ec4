"""Ed25519 keys and signatures in Nix's text forms: `<key name>:<base-64>`.

Source: `src/libutil/signature/local-keys.cc` of Nix; Ed25519 is RFC 8032.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from msgspec import Struct
from nacl import bindings
from nacl.exceptions import BadSignatureError

from harmonia_py.errors import FormatError

SIGNATURE_SIZE: Final = 64
SEED_SIZE: Final = 32
PUBLIC_KEY_SIZE: Final = 32

# Whatever else Nix may accept, a name with white space, a colon or a control character would break the lines it stands
# in; lone surrogates, which JSON can smuggle in, have no UTF-8.
_KEY_NAME: Final = re.compile(r"[^\s:\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")


class Signature(Struct, frozen=True, order=True):
    """A signature and the name of the key that made it; ordered by key name, then bytes, as Nix sorts them."""

    key_name: str
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<key name>:<base-64 of 64 bytes>`.

        Raises:
            FormatError: anything else.
        """
        return cls(*_parse(text, "signature", SIGNATURE_SIZE))

    def __str__(self) -> str:
        return _format(self.key_name, self.data)

    def to_json(self) -> dict[str, str]:
        """The two parts by themselves, as newer releases of Nix have them in JSON."""
        return {"keyName": self.key_name, "sig": base64.b64encode(self.data).decode()}


class PublicKey(Struct, frozen=True):
    """A public key, as clients put it into `trusted-public-keys`."""

    name: str
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<key name>:<base-64 of 32 bytes>`.

        Raises:
            FormatError: anything else.
        """
        return cls(*_parse(text, "public key", PUBLIC_KEY_SIZE))

    def verify(self, message: bytes, signature: Signature) -> bool:
        """Whether `signature` is by this key, under this name, and signs `message`."""
        if signature.key_name != self.name:
            return False
        try:
            bindings.crypto_sign_open(signature.data + message, self.data)
        except (BadSignatureError, ValueError):
            return False
        return True

    def __str__(self) -> str:
        return _format(self.name, self.data)


@dataclass(frozen=True, slots=True)
class SecretKey:
    """Signs what this cache serves."""

    name: str
    data: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<key name>:<base-64 of seed and public key>`; a newline at the end is what files have.

        Raises:
            FormatError: anything else, or a public half that is not the seed's.
        """
        name, data = _parse(text.strip(), "secret key", SEED_SIZE + PUBLIC_KEY_SIZE)
        public, _ = bindings.crypto_sign_seed_keypair(data[:SEED_SIZE])
        if public != data[SEED_SIZE:]:
            raise FormatError("the two halves of the secret key do not belong together")
        return cls(name, data)

    @classmethod
    def generate(cls, name: str) -> Self:
        """A new key from the system's random numbers.

        Raises:
            FormatError: a name that cannot stand in a narinfo.
        """
        if _KEY_NAME.fullmatch(name) is None:
            raise FormatError("a key name has 1 to 255 characters, none of them white space or a colon")
        return cls(name, bindings.crypto_sign_keypair()[1])

    @property
    def public_key(self) -> PublicKey:
        """The half that clients know."""
        return PublicKey(self.name, self.data[SEED_SIZE:])

    def sign(self, message: bytes) -> Signature:
        """The signature of `message`; the same every time."""
        return Signature(self.name, bindings.crypto_sign(message, self.data)[:SIGNATURE_SIZE])

    def format(self) -> str:
        """The text form, which `parse` reads. Not `str()`: a secret must not be printed by accident."""
        return _format(self.name, self.data)


def parse_signatures(texts: Iterable[str]) -> tuple[Signature, ...]:
    """The signatures in `texts` that parse, sorted, each once: stores may hold arbitrary strings as signatures."""
    signatures = set()
    for text in texts:
        try:
            signatures.add(Signature.parse(text))
        except FormatError:
            continue
    return tuple(sorted(signatures))


def with_signatures(
    signatures: Iterable[Signature], keys: Iterable[SecretKey], *messages: bytes
) -> tuple[Signature, ...]:
    """`signatures`, and those of `messages` by these keys, sorted, each once."""
    return tuple(sorted({*signatures, *(key.sign(message) for key in keys for message in messages)}))


def _parse(text: str, what: str, size: int) -> tuple[str, bytes]:
    name, separator, encoded = text.partition(":")
    if not separator or _KEY_NAME.fullmatch(name) is None:
        raise FormatError(f"a {what} has the form <key name>:<base-64>")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise FormatError(f"the {what} is not base-64") from None
    if len(data) != size:
        raise FormatError(f"a {what} has {size} bytes")
    return name, data


def _format(name: str, data: bytes) -> str:
    return f"{name}:{base64.b64encode(data).decode()}"
