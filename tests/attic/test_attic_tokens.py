"""Tokens of Attic: what each allows, and every way to forge one."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from math import inf
from typing import Any, Final

import pytest
from attic_client import EVERYTHING, NAMESPACE, SECRET, VECTOR, make_token, secret_base64
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from harmonia_py.attic.token_key import TokenKey
from harmonia_py.attic.tokens import AtticTokens
from harmonia_py.cache.access import Action, Principal
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.errors import FormatError

NOW: Final = 1_800_000_000
HS256: Final = TokenKey.parse_hs256_secret(secret_base64())
RSA: Final = rsa.generate_private_key(65537, 2048)


def private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)


def encoded(pem: bytes) -> str:
    return base64.b64encode(pem).decode()


def token_of(caches: Mapping[str, Any], **claims: Any) -> str:
    return make_token("alice", caches, **{"exp": NOW + 3600, "nbf": NOW, **claims})


async def principal(token: str, key: TokenKey = HS256, **bound: Any) -> Principal:
    tokens = AtticTokens(key, clock=lambda: NOW, **bound)
    assert tokens.takes(token)
    found = await tokens.principal(token)
    assert found is not None
    return found


def allowed(who: Principal, name: str) -> set[str]:
    return {action.value for action in Action if who.may(action, CacheName(name))}


def forged(header: Mapping[str, Any], claims: Mapping[str, Any], secret: bytes | None) -> str:
    """A token by hand: libraries refuse to make most of these."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    text = b".".join(parts)
    signature = b"" if secret is None else hmac.new(secret, text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


CLAIMS: Final[dict[str, Any]] = {"exp": NOW + 3600, "sub": "mallory", NAMESPACE: {"caches": {"*": EVERYTHING}}}


async def test_a_token_that_atticadm_made() -> None:
    who = await principal(VECTOR)
    assert who.name == "token alice"
    assert who.expires > 4102444800
    assert allowed(who, "alice-x") == {"read", "push", "create"}
    assert allowed(who, "main") == {"read"}
    assert allowed(who, "other") == set()
    assert not who.may_anything(CacheName("other"))


async def test_each_bit_allows_one_thing() -> None:
    words = {
        "r": "read",
        "w": "push",
        "d": "delete",
        "cc": "create",
        "cr": "configure",
        "cq": "retention",
        "cd": "destroy",
    }
    for bit, word in words.items():
        assert allowed(await principal(token_of({"c": {bit: 1}})), "c") == {word}
    assert allowed(await principal(token_of({"c": {"r": 0, "w": 1, "unheard-of": 5}})), "c") == {"push"}


async def test_the_entry_of_a_name_counts_alone_however_late_it_comes() -> None:
    """With a union, a token that takes rights away from one cache of a pattern would leave them there."""
    who = await principal(token_of({"*": EVERYTHING, "main": {"w": 1}}))
    assert allowed(who, "main") == {"push"}
    assert allowed(await principal(token_of({"*": EVERYTHING, "main": {}})), "main") == set()


async def test_of_several_patterns_the_first_counts() -> None:
    caches = {"team-*": {"r": 1}, "*": EVERYTHING, "team-b*": {"w": 1}}
    assert allowed(await principal(token_of(caches)), "team-bar") == {"read"}
    turned = dict(reversed(caches.items()))
    assert allowed(await principal(token_of(turned)), "team-bar") == {"push"}
    assert allowed(await principal(token_of(turned)), "team-foo") >= {"read", "destroy"}


async def test_a_pattern_is_a_name_with_stars_and_nothing_else() -> None:
    who = await principal(token_of({"a*b*c": {"r": 1}}))
    assert [name for name in ("abc", "a-b-c", "axxbxxc", "ab", "abcd", "xabc") if allowed(who, name)] == [
        "abc",
        "a-b-c",
        "axxbxxc",
    ]
    # The name of a cache is no pattern, so a token cannot name one that has a star.
    assert allowed(await principal(token_of({"a": {"r": 1}})), "a") == {"read"}


@pytest.mark.parametrize(
    "pattern", ["", "-team", "te am", "team/x", "tea?", "[a-z]", "a" * 51, "te\u0430m", "a\n", ".*"]
)
async def test_one_pattern_that_is_none_makes_the_token_invalid(pattern: str) -> None:
    """`?` and brackets mean something to other matchers, and a letter that looks like another is another."""
    who = await principal(token_of({"main": {"r": 1}, pattern: {"w": 1}}))
    assert (who.fault, who.grants) == ("the token was not made for this server, or has been changed", ())


async def test_a_pattern_of_many_stars_takes_no_time() -> None:
    who = await principal(token_of({"*a" * 24 + "*b": {"r": 1}}))
    assert allowed(who, "a" * 50) == set()


@pytest.mark.parametrize("bit", [True, False, 2, -1, 1.0, "1", None, [1]])
async def test_a_bit_that_is_not_0_or_1_makes_the_token_invalid(bit: Any) -> None:
    who = await principal(token_of({"main": {"r": 1, "w": bit}}))
    assert who.fault is not None
    assert allowed(who, "main") == set()


@pytest.mark.parametrize(
    "claims",
    [
        {NAMESPACE: None},
        {NAMESPACE: {}},
        {NAMESPACE: {"caches": [["*", EVERYTHING]]}},
        {NAMESPACE: {"caches": {"*": [1, 1]}}},
        {"exp": "4102444800"},
        {"exp": 1e400},
        {"nbf": [0]},
        {"sub": {"name": "alice"}},
        {"aud": {"cache": 1}},
        {"aud": ["cache", 7]},
    ],
    ids=repr,
)
async def test_claims_of_another_shape_make_the_token_invalid(claims: Mapping[str, Any]) -> None:
    token = forged({"alg": "HS256", "typ": "JWT"}, {**CLAIMS, **claims}, SECRET)
    assert (await principal(token)).fault is not None


async def test_a_token_without_a_signature() -> None:
    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        for secret in (None, b"", SECRET):
            token = forged({"alg": algorithm, "typ": "JWT"}, CLAIMS, secret)
            tokens = AtticTokens(HS256, clock=lambda: NOW)
            found = await tokens.principal(token)
            assert found is not None
            assert found.fault is not None
            assert found.grants == ()
    assert not AtticTokens(HS256).takes(forged({"alg": "none"}, CLAIMS, None))


async def test_a_public_key_is_no_secret() -> None:
    """The classic: the verifier takes the key of RS256, which all may know, for the secret of HS256."""
    key = TokenKey.parse_rs256_public_key(encoded(public_pem(RSA)))
    spki = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for secret in (public_pem(RSA), public_pem(RSA).strip(), spki, spki.strip(), encoded(public_pem(RSA)).encode()):
        for algorithm in ("HS256", "RS256"):
            who = await principal(forged({"alg": algorithm, "typ": "JWT"}, CLAIMS, secret), key)
            assert (who.fault is None, who.grants) == (False, ())


async def test_only_the_algorithm_of_the_key_counts() -> None:
    rs256 = make_token("alice", {"*": EVERYTHING}, key=RSA, algorithm="RS256", exp=NOW + 9, nbf=NOW)
    assert (await principal(rs256)).fault is not None
    for algorithm in ("HS384", "HS512"):
        token = make_token("alice", {"*": EVERYTHING}, key=SECRET * 2, algorithm=algorithm, exp=NOW + 9, nbf=NOW)
        assert (await principal(token, TokenKey.parse_hs256_secret(secret_base64(SECRET * 2)))).fault is not None
    assert (await principal(token_of({"*": EVERYTHING}), TokenKey.parse_rs256_secret(encoded(private_pem(RSA))))).fault


async def test_a_key_in_the_header_is_not_the_key() -> None:
    for header in ({"jwk": {"kty": "oct", "k": "AAAA"}}, {"jku": "http://127.0.0.1:1/"}, {"kid": "../../dev/null"}):
        assert (await principal(forged({"alg": "HS256", **header}, CLAIMS, b"\0\0\0"))).fault is not None
    unknown = forged({"alg": "HS256", "crit": ["x"], "x": 1}, CLAIMS, SECRET)
    assert (await principal(unknown)).fault is not None


async def test_rs256_by_the_private_and_by_the_public_key() -> None:
    token = make_token("alice", {"main": {"r": 1}}, key=RSA, algorithm="RS256", exp=NOW + 9, nbf=NOW)
    keys = [
        TokenKey.parse_rs256_secret(encoded(private_pem(RSA))),
        TokenKey.parse_rs256_public_key(encoded(public_pem(RSA))),
    ]
    for key in keys:
        assert allowed(await principal(token, key), "main") == {"read"}
        assert "BEGIN" not in repr(key)
    other = rsa.generate_private_key(65537, 2048)
    assert (await principal(token, TokenKey.parse_rs256_secret(encoded(private_pem(other))))).fault is not None


@pytest.mark.parametrize("text", ["", "====", "not base 64!", encoded(b"no PEM"), "\u00e4"])
def test_what_is_no_key_is_refused(text: str) -> None:
    for parse in (TokenKey.parse_rs256_secret, TokenKey.parse_rs256_public_key):
        with pytest.raises(FormatError):
            parse(text)
    if text != encoded(b"no PEM"):
        with pytest.raises(FormatError):
            TokenKey.parse_hs256_secret(text)


def test_keys_that_are_too_short_or_of_another_kind_are_refused() -> None:
    short = rsa.generate_private_key(65537, 1024)
    curve = ec.generate_private_key(ec.SECP256R1())
    pem = curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for key in (public_pem(short), pem):
        with pytest.raises(FormatError, match="RSA key of 2048 bits"):
            TokenKey.parse_rs256_public_key(encoded(key))


async def test_the_holder_of_an_expired_token_learns_since_when() -> None:
    who = await principal(token_of({"*": EVERYTHING}, exp=NOW - 61))
    assert who.fault == "the token alice expired on 2027-01-15 07:58:59+00:00; ask for another one"
    assert allowed(who, "main") == set()
    assert (await principal(token_of({"*": EVERYTHING}, exp=NOW - 59))).fault is None
    assert (await principal(token_of({"*": EVERYTHING}, exp=None))).expires == inf


async def test_a_token_of_a_machine_whose_clock_is_ahead() -> None:
    """atticadm lets a token begin at the second in which it was made, so one second of difference made it invalid."""
    assert (await principal(token_of({"main": {"r": 1}}, nbf=NOW + 59))).fault is None
    who = await principal(token_of({"main": {"r": 1}}, nbf=NOW + 61))
    assert (who.fault is None, who.expires) == (False, NOW + 1)


async def test_issuer_and_audience_count_when_they_are_bound() -> None:
    bound: dict[str, Any] = {"issuer": "attic.example.org", "audiences": ["cache", "backup"]}
    good = {"iss": "attic.example.org", "aud": "cache"}
    assert (await principal(token_of({"*": EVERYTHING}, **good), **bound)).fault is None
    assert (await principal(token_of({"*": EVERYTHING}, **good | {"aud": ["x", "backup"]}), **bound)).fault is None
    refused: list[dict[str, Any]] = [
        {"iss": "mallory"},
        {"iss": None},
        {"aud": "other"},
        {"aud": []},
        {"aud": None},
        {"aud": "cach"},
    ]
    for wrong in refused:
        assert (await principal(token_of({"*": EVERYTHING}, **good | wrong), **bound)).fault is not None
    # atticd does not look at what it is not told to look at.
    assert (await principal(token_of({"*": EVERYTHING}, iss="anyone", aud=["any"]))).fault is None


def test_what_is_no_jwt_is_not_looked_at() -> None:
    tokens = AtticTokens(HS256)
    for text in ("hpy_abc", "eyJ.a", "eyJh.b.c.d", "", "eyJh.b.c\n", "eyJ" + "a" * 9000 + ".b.c"):
        assert not tokens.takes(text)


async def test_a_token_that_was_changed() -> None:
    header, body, signature = token_of({"main": {"r": 1}}).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims[NAMESPACE]["caches"] = {"*": EVERYTHING}
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    assert (await principal(f"{header}.{changed}.{signature}")).fault is not None
    assert (await principal(f"{header}.{body}.{signature[:-4]}AAAA")).fault is not None


def test_a_secret_that_could_be_guessed_is_refused() -> None:
    """A token is seen by many, and each of them can try secrets without asking the server."""
    for secret in (b"", b"short", b"x" * 31):
        with pytest.raises(FormatError, match="32 bytes or more"):
            TokenKey.parse_hs256_secret(encoded(secret))


@pytest.mark.parametrize("part", ["header", "claims"])
async def test_a_deeply_nested_token_is_not_ours(part: str) -> None:
    """Lists in one another, 2,500 deep, were a 500 and a traceback. The signature is good here."""
    fields: dict[str, Any] = {"header": {"alg": "HS256", "typ": "JWT"}, "claims": CLAIMS}
    texts = {name: json.dumps(value).encode() for name, value in fields.items()}
    texts[part] = texts[part][:-1] + b', "x": ' + b"[" * 2_500 + b"]" * 2_500 + b"}"
    text = b".".join(base64.urlsafe_b64encode(one).rstrip(b"=") for one in texts.values())
    signature = base64.urlsafe_b64encode(hmac.new(SECRET, text, hashlib.sha256).digest()).rstrip(b"=")
    assert (await principal((text + b"." + signature).decode())).fault is not None
