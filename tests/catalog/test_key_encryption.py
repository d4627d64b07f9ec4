"""Secret keys at rest: read again by the right key alone, and only as the key of their own cache."""

import base64
import dataclasses
import secrets

import pytest

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.key_encryption import PLAIN, SECRETBOX, KeyEncryption, secret_key_of, secret_of
from harmonia_py.catalog.keys import KeyRow, KeyState
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.nix.signing import SecretKey

TEAM = CacheName("team")
KEY = SecretKey.generate("cache.example.org-team-1")
OTHER = SecretKey.generate("cache.example.org-team-2")
ENCRYPTION = KeyEncryption(secrets.token_bytes(32))


def row_of(key: SecretKey, encryption: KeyEncryption | None, cache: CacheName = TEAM) -> KeyRow:
    secret, scheme = secret_of(key, cache, encryption)
    return KeyRow(
        cache=CacheId(7),
        name=key.name,
        public_key=str(key.public_key),
        secret=secret,
        encryption=scheme,
        state=KeyState.ACTIVE,
        created=Timestamp(0),
    )


@pytest.mark.parametrize(("encryption", "scheme"), [(None, PLAIN), (ENCRYPTION, SECRETBOX)])
def test_a_key_is_read_as_it_was_kept(encryption: KeyEncryption | None, scheme: str) -> None:
    row = row_of(KEY, encryption)
    assert row.encryption == scheme
    assert secret_key_of(row, TEAM, encryption) == KEY


def test_a_copy_of_the_catalog_alone_has_no_secret() -> None:
    row = row_of(KEY, ENCRYPTION)
    assert KEY.data[:32] not in row.secret
    assert base64.b64encode(KEY.data)[:40] not in row.secret
    assert row.secret != row_of(KEY, ENCRYPTION).secret, "each has a nonce of its own"


def test_a_key_in_plain_text_is_read_beside_encrypted_ones() -> None:
    """key_encryption_file was set later: what was made before signs until it is rotated."""
    assert secret_key_of(row_of(KEY, None), TEAM, ENCRYPTION) == KEY


def test_without_the_key_or_with_another_one_the_error_says_what_to_do() -> None:
    row = row_of(KEY, ENCRYPTION)
    with pytest.raises(StorageError, match=r"is encrypted: name in key_encryption_file .*`key create`"):
        secret_key_of(row, TEAM, None)
    with pytest.raises(
        StorageError, match=r"cannot be decrypted: key_encryption_file names another file .*`key retire`"
    ):
        secret_key_of(row, TEAM, KeyEncryption(secrets.token_bytes(32)))


@pytest.mark.parametrize("place", [0, 23, 24, 40, -1])
def test_a_changed_byte_is_found(place: int) -> None:
    row = row_of(KEY, ENCRYPTION)
    changed = bytearray(row.secret)
    changed[place] ^= 1
    with pytest.raises(StorageError, match="cannot be decrypted"):
        secret_key_of(dataclasses.replace(row, secret=bytes(changed)), TEAM, ENCRYPTION)
    with pytest.raises(StorageError, match="cannot be decrypted"):
        secret_key_of(dataclasses.replace(row, secret=row.secret[:10]), TEAM, ENCRYPTION)


@pytest.mark.parametrize("encryption", [None, ENCRYPTION])
def test_a_row_that_was_moved_or_renamed_does_not_sign(encryption: KeyEncryption | None) -> None:
    """Write access to the catalog must not let the key of one cache sign for another, or under another's name."""
    row = row_of(KEY, encryption)
    with pytest.raises(StorageError, match="was changed in the catalog"):
        secret_key_of(row, CacheName("other"), encryption)
    swapped = dataclasses.replace(row_of(OTHER, encryption), name=KEY.name, public_key=str(KEY.public_key))
    with pytest.raises(StorageError, match="was changed in the catalog"):
        secret_key_of(swapped, TEAM, encryption)


@pytest.mark.parametrize("secret", [b"", b"team", b"team\n", b"team\nk-1:AAAA", b"\xff\n"])
def test_what_is_no_key_is_an_error_that_names_it_and_shows_nothing(secret: bytes) -> None:
    with pytest.raises(StorageError, match="is damaged in the catalog") as caught:
        secret_key_of(dataclasses.replace(row_of(KEY, None), secret=secret), TEAM, None)
    assert "AAAA" not in str(caught.value)


def test_a_scheme_of_a_newer_release_is_not_guessed() -> None:
    with pytest.raises(StorageError, match="newer release"):
        secret_key_of(dataclasses.replace(row_of(KEY, ENCRYPTION), encryption="age"), TEAM, ENCRYPTION)


def test_a_row_is_shown_without_its_secret() -> None:
    assert "secret" not in repr(row_of(KEY, None))


def base64_of(size: int) -> str:
    return base64.b64encode(bytes(range(size))).decode()


@pytest.mark.parametrize("text", ["", "A", "AAAA", "\u00fc", base64_of(31), base64_of(33)])
def test_only_32_bytes_in_base_64_encrypt(text: str) -> None:
    with pytest.raises(FormatError):
        KeyEncryption.parse(text)


def test_a_newline_at_the_end_is_what_files_have() -> None:
    text = base64_of(32) + "\n"
    assert secret_key_of(row_of(KEY, KeyEncryption.parse(text)), TEAM, KeyEncryption.parse(text)) == KEY


def test_a_key_signs_until_its_time_and_not_when_it_is_retired() -> None:
    row = dataclasses.replace(row_of(KEY, None), state=KeyState.RETIRING, until=Timestamp(100))
    assert [row.signs(Timestamp(at)) for at in (99, 100)] == [True, False]
    assert not dataclasses.replace(row, state=KeyState.RETIRED).signs(Timestamp(0))
    assert row_of(KEY, None).signs(Timestamp(10**9))
