"""Every way to forge or misuse the token of a CI's job. Each test is named for the attack that it stands for."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from certificates import make_certificate
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from issuer import AUDIENCE, DISCOVERY, OTHER_RSA, Issuer, Reply, SigningKey, by_hand, claims_of, table_of
from lab import Lab
from server import Answer, Server, settings_of

from harmonia_py.errors import FormatError
from harmonia_py.oidc.key_set import MAX_KEYS, parse_key_set

RULE = {"claims": {"repository": "acme/*"}, "caches": ["main"], "allow": ["read"]}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


@pytest.fixture
def other() -> Iterator[Issuer]:
    """A second issuer that the server trusts, with a key of its own under the same name, for nothing of `main`."""
    with Issuer(SigningKey("two", private=OTHER_RSA.private)) as issuer:
        yield issuer


@pytest.fixture
def server(daemon: Lab, tmp_path: Path, issuer: Issuer, other: Issuer) -> Iterator[Server]:
    tables = {
        "ci": table_of(issuer, RULE),
        "other": table_of(other, {"claims": {"repository": "x/y"}, "caches": ["x"], "allow": ["read"]}),
    }
    settings = settings_of(daemon) | {"workers": 1, "caches": {"main": {}}, "oidc": tables}
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def ask(server: Server, token: str) -> Answer:
    """The answer to a private cache's `nix-cache-info`, asked for with `token` as Bearer, and as a password alike."""
    password = base64.b64encode(f"ci:{token}".encode()).decode()
    bearer = server.get("/main/nix-cache-info", {"Authorization": f"Bearer {token}"})
    basic = server.get("/main/nix-cache-info", {"Authorization": f"Basic {password}"})
    assert (bearer.status, bearer.body) == (basic.status, basic.body)
    return bearer


def refused(server: Server, token: str) -> None:
    """That `token` is not known, and that its holder learns nothing of rules."""
    answer = ask(server, token)
    assert (answer.status, answer.body) == (401, b"Unauthorized\n")


def test_a_good_token_is_let_in(server: Server, issuer: Issuer) -> None:
    """Or the tests below would show nothing."""
    assert ask(server, issuer.token()).status == 200


def test_alg_none(server: Server, issuer: Issuer) -> None:
    assert ask(server, issuer.token()).status == 200
    for algorithm in ("none", "None", "NONE", ""):
        for signature in (b"", b"\0"):
            header = {"alg": algorithm, "kid": "one", "typ": "JWT"}
            token = by_hand(header, claims_of(issuer.url), signature)
            refused(server, token)


def test_an_empty_signature(server: Server, issuer: Issuer) -> None:
    good = issuer.token()
    header_and_claims = good.rpartition(".")[0]
    # What ends with a dot does not even have the shape of a token: its sender has shown nothing.
    assert ask(server, header_and_claims + ".").status == 401
    refused(server, header_and_claims + ".AA")


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_hs256_with_the_public_key(server: Server, issuer: Issuer, encoding: Encoding) -> None:
    """CVE-2015-9235 and its kin: the key that everybody knows, taken for a secret."""
    public = issuer.keys[0].private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    text = by_hand({"alg": "HS256", "kid": "one"}, claims_of(issuer.url)).rpartition(".")[0]
    for secret in (public, public.strip(), json.dumps(issuer.keys[0].jwk).encode()):
        signature = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        refused(server, f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")


def test_kid_of_another_issuer(server: Server, issuer: Issuer, other: Issuer) -> None:
    """A good signature of a trusted issuer, on claims that name another one."""
    refused(server, other.keys[0].sign(claims_of(issuer.url)))
    # And under the name of the key that the other one has.
    refused(server, other.keys[0].sign(claims_of(issuer.url), kid="one"))
    # What it signs of its own is known, and opens nothing here.
    assert ask(server, other.token(repository="acme/widgets")).status == 403


def test_a_key_of_nobody(server: Server, issuer: Issuer) -> None:
    refused(server, OTHER_RSA.sign(claims_of(issuer.url)))
    refused(server, OTHER_RSA.sign(claims_of(issuer.url), kid="unknown"))
    refused(server, OTHER_RSA.sign(claims_of("https://unknown.example.org")) + "x")


def test_jku_x5u_and_jwk_headers_are_ignored(server: Server, issuer: Issuer) -> None:
    """A token that brings its own key, or says where it is: nothing but the configured issuer is asked."""
    with Issuer(OTHER_RSA) as mallory:
        urls = {"jku": f"{mallory.url}/jwks", "x5u": f"{mallory.url}/jwks"}
        refused(server, OTHER_RSA.sign(claims_of(issuer.url), jwk=OTHER_RSA.jwk, **urls))
        refused(server, OTHER_RSA.sign(claims_of(issuer.url), kid="mallory", **urls))
        assert ask(server, issuer.keys[0].sign(claims_of(issuer.url), **urls)).status == 200
        assert mallory.requests == []


def test_a_critical_header_that_is_not_understood(server: Server, issuer: Issuer) -> None:
    refused(server, issuer.keys[0].sign(claims_of(issuer.url), crit=["b64"], b64=True))


def test_wrong_audience(server: Server, issuer: Issuer) -> None:
    for audience in ("https://other.example.org", [], AUDIENCE + "/", AUDIENCE.upper(), ["x", "y"]):
        answer = ask(server, issuer.token(aud=audience))
        assert answer.status == 401, audience
    assert ask(server, issuer.token(aud=None)).status == 401
    assert ask(server, issuer.token(aud=["x", AUDIENCE])).status == 200


def test_expired_and_not_yet_valid(server: Server, issuer: Issuer) -> None:
    """Clocks that differ by a minute are borne with, and no more."""
    now = int(time.time())
    for times, status in (
        ({"exp": now - 61}, 401),
        ({"exp": now - 30}, 200),
        ({"exp": None}, 401),
        ({"exp": "never"}, 401),
        ({"nbf": now + 90}, 401),
        ({"nbf": now + 30}, 200),
        ({"iat": now + 90}, 401),
        ({"nbf": 10**300}, 401),
    ):
        assert ask(server, issuer.token(**times)).status == status, times


def test_what_a_signed_token_lacks_is_told_and_what_rules_want_is_not(server: Server, issuer: Issuer) -> None:
    answer = server.request(
        "PUT", "/main/push/x.narinfo", {"Authorization": f"Bearer {issuer.token()}", "Content-Length": "1"}
    )
    assert answer.status == 403
    answer = ask(server, issuer.token(sub="repo:mallory/widgets:x", repository="mallory/widgets"))
    assert answer.status == 403
    assert b"rule 1 does not take its claim repository, 'mallory/widgets'" in answer.body
    assert b"acme" not in answer.body


def test_claim_glob_crossing_a_slash(server: Server, issuer: Issuer) -> None:
    assert ask(server, issuer.token(repository="acme/widgets")).status == 200
    for repository in ("acme/widgets/evil", "acme/x:y", "acme", "acme//", "mallory/acme/widgets"):
        assert ask(server, issuer.token(repository=repository)).status == 403, repository


def test_a_huge_token(server: Server, issuer: Issuer) -> None:
    """Its claims are not even decoded."""
    assert ask(server, issuer.token(padding="x" * 20_000)).status == 431
    assert server.get("/main/nix-cache-info", {"Authorization": "Bearer " + "e" * 7_000}).status == 401
    assert issuer.requests == []


def test_a_deeply_nested_token(server: Server, issuer: Issuer) -> None:
    """Lists in one another, 2,500 deep, in what nothing has signed: each was a 500 and a traceback, at every URL."""
    header, claims = {"alg": "RS256", "kid": "one", "typ": "JWT"}, claims_of(issuer.url)
    unsigned = [
        encoded(json.dumps(header).encode(), nested(claims)),
        encoded(nested(header), json.dumps(claims).encode()),
    ]
    # Also where it is signed, as by an issuer that lets jobs choose claims.
    signed = jwt.PyJWS().encode(nested(claims), issuer.keys[0].private, "RS256", {"kid": "one"})
    for token in (*unsigned, signed):
        bearer = {"Authorization": f"Bearer {token}"}
        assert [server.get(path, bearer).status for path in ("/main/nix-cache-info", "/main/pins")] == [401, 401]
    assert ask(server, issuer.token()).status == 200
    assert "Traceback" not in server.output()


@pytest.mark.parametrize("path", [DISCOVERY, "/jwks"])
def test_a_deeply_nested_document_of_the_issuer(server: Server, issuer: Issuer, path: str) -> None:
    issuer.answers[path] = Reply(body=nested({"issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks"}, 100_000))
    assert ask(server, issuer.token()).status == 502
    assert "Traceback" not in server.output()


def nested(fields: dict[str, Any], depth: int = 2_500) -> bytes:
    """JSON with one member more: a list in a list, and so on."""
    return json.dumps(fields).encode()[:-1] + b', "x": ' + b"[" * depth + b"]" * depth + b"}"


def encoded(header: bytes, claims: bytes) -> str:
    """A token that nothing has signed."""
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (header, claims, b"\0"))


def test_a_key_set_of_100_000_keys(server: Server, issuer: Issuer) -> None:
    """It is cut off, and refused, and does not let the server stand still."""
    padding = {"kty": "RSA", "n": "AQAB", "e": "AQAB"}
    keys = [issuer.keys[0].jwk, *({**padding, "kid": str(number)} for number in range(100_000))]
    issuer.answers["/jwks"] = Reply(body=json.dumps({"keys": keys}).encode())
    assert ask(server, issuer.token()).status == 502
    assert server.get("/health").status == 200


def test_a_key_set_of_101_keys() -> None:
    """Small enough to be read, and refused all the same: each worker keeps what an issuer has."""
    keys = [OTHER_RSA.jwk | {"kid": str(number)} for number in range(MAX_KEYS + 1)]
    assert len(parse_key_set(json.dumps({"keys": keys[1:]}).encode())) == 100
    with pytest.raises(FormatError, match="it has 101 keys; 100 are taken"):
        parse_key_set(json.dumps({"keys": keys}).encode())


def test_keys_that_are_no_keys_are_passed_over(server: Server, issuer: Issuer) -> None:
    bad: list[Any] = [
        7,
        {},
        {"kty": "RSA", "kid": "one", "n": "AQAB", "e": "AQAB"},
        {"kty": "oct", "kid": "one", "k": "AAAA"},
        {"kty": "EC", "kid": "one", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "OKP", "kid": "one", "crv": "Ed25519", "x": "AAAA"},
        {"kty": "RSA", "kid": "one", "n": "", "e": ""},
    ]
    issuer.answers["/jwks"] = Reply(body=json.dumps({"keys": [*bad, issuer.keys[0].jwk]}).encode())
    assert ask(server, issuer.token()).status == 200


def test_an_issuer_that_leads_inward(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    """A server-side request forgery by way of a redirect, and of `jwks_uri`: only this server can reach the place."""
    with Issuer() as inner:
        issuer.answers[DISCOVERY] = Reply(302, headers={"Location": f"{inner.url}/latest/meta-data"})
        table = table_of(issuer, RULE, local_network=False)
        settings = settings_of(daemon) | {"workers": 1, "caches": {"main": {}}, "oidc": {"ci": table}}
        with Server(tmp_path, daemon.env, settings) as server:
            assert ask(server, issuer.token()).status == 502
            assert "inside this network" in server.output()
        assert inner.requests == []


def test_an_issuer_that_leads_from_https_to_http(daemon: Lab, tmp_path: Path) -> None:
    """Whoever is on the way could put in keys of their own."""
    pair = make_certificate(tmp_path, "issuer")
    with Issuer(certificate=pair) as issuer, Issuer(OTHER_RSA) as plain:
        issuer.answers[DISCOVERY] = Reply(
            body=json.dumps({"issuer": issuer.url, "jwks_uri": f"{plain.url}/jwks"}).encode()
        )
        table = table_of(issuer, RULE, ca_file=str(pair.chain))
        settings = settings_of(daemon) | {"workers": 1, "caches": {"main": {}}, "oidc": {"ci": table}}
        with Server(tmp_path, daemon.env, settings) as server:
            assert ask(server, OTHER_RSA.sign(claims_of(issuer.url))).status == 502
            assert "from https to http" in server.output()
        assert plain.requests == []
