"""Secret keys of caches at rest: encrypted under a key that is not in the catalog, or in the clear.

Encrypted, a copy of the catalog, as in a backup, cannot sign. The encrypted text names the cache and the key: a row
that was moved to another cache, or given another public half, is refused instead of signing there.
"""

import base64
import binascii
from typing import Final, Self

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheRow, Timestamp
from harmonia_py.catalog.keys import KeyRow, KeyState
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.nix.signing import SecretKey

PLAIN: Final = ""
SECRETBOX: Final = "secretbox"
"""XSalsa20-Poly1305, with a random nonce of 24 bytes in front: `SecretBox` of NaCl."""

_AGAIN: Final = "or retire the key (`key retire`) and make another one (`key create`)"


class KeyEncryption:
    """Encrypts secret keys, and decrypts them.

    Args:
        key: 32 random bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._box = SecretBox(key)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 32 bytes in base 64, as `openssl rand -base64 32` prints them.

        Raises:
            FormatError: anything else.
        """
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise FormatError("not base-64") from None
        if len(key) != SecretBox.KEY_SIZE:
            raise FormatError(f"{len(key)} bytes instead of {SecretBox.KEY_SIZE}")
        return cls(key)

    def encrypt(self, message: bytes) -> bytes:
        """A fresh nonce and the encrypted message, which `decrypt` alone can read; it refuses a changed one."""
        return bytes(self._box.encrypt(message))

    def decrypt(self, data: bytes) -> bytes | None:
        """The message; None when it was encrypted under another key, or has been changed."""
        try:
            return self._box.decrypt(data)
        except (CryptoError, ValueError):  # ValueError: shorter than a nonce
            return None


def secret_of(key: SecretKey, cache: CacheName, encryption: KeyEncryption | None) -> tuple[bytes, str]:
    """The text that the catalog keeps of a key of `cache`, and the scheme in which it is encrypted."""
    message = f"{cache}\n{key.format()}".encode()
    return (message, PLAIN) if encryption is None else (encryption.encrypt(message), SECRETBOX)


def new_row(cache: CacheRow, key: SecretKey, encryption: KeyEncryption | None, *, now: Timestamp) -> KeyRow:
    """The row of a key that `cache` signs with from now on."""
    secret, scheme = secret_of(key, cache.name, encryption)
    return KeyRow(
        cache=cache.id,
        name=key.name,
        public_key=str(key.public_key),
        secret=secret,
        encryption=scheme,
        state=KeyState.ACTIVE,
        created=now,
    )


def secret_key_of(row: KeyRow, cache: CacheName, encryption: KeyEncryption | None) -> SecretKey:
    """The key that `row` keeps for `cache`.

    Raises:
        StorageError: it cannot be read: there is no key to decrypt it with, or another one, or the row was changed.
    """
    message = _message_of(row, cache, encryption)
    try:
        owner, _, text = message.decode().partition("\n")
        key = SecretKey.parse(text)
    except (UnicodeDecodeError, FormatError):
        raise StorageError(f"the key {row.name} of the cache {cache} is damaged in the catalog; {_AGAIN[3:]}") from None
    if (owner, str(key.public_key)) != (cache, row.public_key):
        raise StorageError(
            f"the key {row.name} of the cache {cache} was changed in the catalog: that is {key.name} of {owner}; "
            f"restore the catalog from a copy, {_AGAIN}"
        )
    return key


def _message_of(row: KeyRow, cache: CacheName, encryption: KeyEncryption | None) -> bytes:
    if row.encryption == PLAIN:
        return row.secret
    if row.encryption != SECRETBOX:
        raise StorageError(f"the key {row.name} of the cache {cache} is encrypted as a newer release does it; update")
    if encryption is None:
        raise StorageError(
            f"the key {row.name} of the cache {cache} is encrypted: name in key_encryption_file the file that it was "
            f"encrypted with, {_AGAIN}"
        )
    message = encryption.decrypt(row.secret)
    if message is None:
        raise StorageError(
            f"the key {row.name} of the cache {cache} cannot be decrypted: key_encryption_file names another file than "
            f"the one it was encrypted with, or the catalog was changed; name that file, {_AGAIN}"
        )
    return message
