"""The key of Attic's tokens: named by a setting, or given as atticd was given it."""

import base64
from pathlib import Path
from typing import Any

import pytest
from attic_client import SECRET, make_token, secret_base64
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from harmonia_py.cache.access import Action
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.config import file as config_file
from harmonia_py.errors import ConfigError
from harmonia_py.wiring.attic_tokens import attic_tokens

HS256 = "ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64"
RS256 = "ATTIC_SERVER_TOKEN_RS256_SECRET_BASE64"
RS256_PUBLIC = "ATTIC_SERVER_TOKEN_RS256_PUBKEY_BASE64"
KEY = rsa.generate_private_key(65537, 2048)
PRIVATE = base64.b64encode(KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())).decode()
PUBLIC = base64.b64encode(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)).decode()


async def takes(token: str, attic: dict[str, Any], environment: dict[str, str]) -> bool:
    config = config_file.load(None, {}, {"attic": {"enabled": True} | attic})
    tokens = attic_tokens(config, environment)
    if tokens is None:
        return False
    found = await tokens.principal(token)
    return found is not None and found.may(Action.READ, CacheName("main"))


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(f"{text}\n")
    return str(file)


async def test_each_kind_of_key_by_file_and_by_variable(tmp_path: Path) -> None:
    hs256 = make_token("alice", {"main": {"r": 1}})
    rs256 = make_token("alice", {"main": {"r": 1}}, key=KEY, algorithm="RS256")
    for token, setting, variable, text in (
        (hs256, "token_hs256_secret_file", HS256, secret_base64()),
        (rs256, "token_rs256_secret_file", RS256, PRIVATE),
        (rs256, "token_rs256_public_key_file", RS256_PUBLIC, PUBLIC),
    ):
        assert await takes(token, {setting: written(tmp_path, text)}, {})
        assert await takes(token, {}, {variable: text})
        # What the configuration names counts before what is left in the environment.
        other = base64.b64encode(SECRET * 2).decode()
        assert await takes(token, {setting: written(tmp_path, text)}, {HS256: other})


async def test_without_a_key_or_switched_off_there_are_no_such_tokens() -> None:
    assert not await takes(make_token("alice", {"main": {"r": 1}}), {}, {})
    assert not await takes(make_token("alice", {"main": {"r": 1}}), {"enabled": False}, {HS256: secret_base64()})


async def test_two_keys_are_one_too_many(tmp_path: Path) -> None:
    """Which of them a token was made with would be for its header to say: the classic mistake."""
    with pytest.raises(ConfigError, match="one key"):
        await takes("", {}, {HS256: secret_base64(), RS256_PUBLIC: PUBLIC})
    file = written(tmp_path, PUBLIC)
    with pytest.raises(ConfigError, match="one key"):
        await takes("", {"token_rs256_public_key_file": file, "token_hs256_secret_file": file}, {})


async def test_what_is_wrong_with_a_key_is_said_without_the_key(tmp_path: Path) -> None:
    for attic, environment, words in (
        ({"token_hs256_secret_file": str(tmp_path / "absent")}, {}, "attic.token_hs256_secret_file"),
        ({"token_hs256_secret_file": written(tmp_path, "c2hvcnQ=")}, {}, "32 bytes or more"),
        ({}, {RS256: "bm8gUEVN"}, RS256),
        ({}, {HS256: "not base 64"}, "not base 64"),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            await takes("", attic, environment)
        assert "c2hvcnQ" not in str(raised.value)
        assert "bm8gUEVN" not in str(raised.value)


async def test_bound_issuer_and_audience_are_settings(tmp_path: Path) -> None:
    bound = {"token_bound_issuer": "attic.example.org", "token_bound_audiences": ["cache"]}
    environment = {HS256: secret_base64()}
    good = make_token("alice", {"main": {"r": 1}}, iss="attic.example.org", aud="cache")
    assert await takes(good, bound, environment)
    assert not await takes(make_token("alice", {"main": {"r": 1}}), bound, environment)
