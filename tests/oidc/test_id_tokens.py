"""ID tokens: what rules make of good ones, and how the keys of an issuer come, stay and go."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
from issuer import AUDIENCE, SUBJECT, SigningKey, claims_of
from oidc_documents import KEY, URL, Documents, rule

from harmonia_py.cache.access import Action
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.cache.identity import ClaimPattern, Identity, IdentityRule
from harmonia_py.errors import UpstreamProtocolError, UpstreamUnreachable
from harmonia_py.oidc.issuer import Issuer
from harmonia_py.oidc.tokens import IdTokens, TrustedIssuer

NOW: Final = 1_800_000_000


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def tokens_of(documents: Documents, *rules: IdentityRule, clock: Callable[[], float] = lambda: 0.0) -> IdTokens:
    issuer = Issuer(URL, documents, clock)
    trusted = TrustedIssuer(name="ci", issuer=issuer, audience=AUDIENCE, rules=rules)
    return IdTokens([trusted], lambda: NOW)


async def identity(*rules: IdentityRule, **claims: Any) -> Identity:
    tokens = tokens_of(Documents(KEY), *rules)
    token = KEY.sign(claims_of(URL, NOW, **claims))
    assert tokens.takes(token)
    found = await tokens.principal(token)
    assert found is not None
    return found


def allowed(who: Identity, name: str) -> set[str]:
    return {action.value for action in Action if who.may(action, CacheName(name))}


async def test_what_several_rules_allow_adds_up() -> None:
    who = await identity(
        rule("read push", "main", repository="acme/*", ref="refs/heads/main"),
        rule("read", "deps", 7200, repository="acme/*"),
        rule("admin", "*", repository="other/*"),
        ref="refs/heads/main",
    )
    assert allowed(who, "main") == {"read", "push"}
    assert allowed(who, "deps") == {"read"}
    assert (who.issuer, who.subject, who.seconds) == ("ci", SUBJECT, 3600)
    assert who.name == f"ci identity {SUBJECT}"
    assert who.lacks == "rule 3 does not take its claim repository, 'acme/widgets'"
    assert who.expires == NOW + 300 + 60


async def test_every_claim_of_a_rule_must_have_one_of_its_values() -> None:
    one = rule(repository=["acme/widgets", "acme/tools"], ref=["refs/heads/main", "refs/tags/*"])
    assert allowed(await identity(one, ref="refs/tags/v1"), "main") == {"push"}
    assert allowed(await identity(one, ref="refs/heads/other"), "main") == set()
    assert allowed(await identity(one, ref="refs/tags/v1", repository="acme/other"), "main") == set()
    without = await identity(one)
    assert allowed(without, "main") == set()
    assert without.lacks == "rule 1 wants a claim ref, which it has not"


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("acme/*", "acme/widgets", True),
        ("acme/*", "acme/widgets/more", False),
        ("acme/*", "acme/widgets:more", False),
        ("*", "acme/widgets", False),
        ("*/*", "acme/widgets", True),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/x:ref:refs/heads/main", True),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/x:ref:refs/heads/y:ref:refs/heads/main", False),
        ("refs/heads/release-*", "refs/heads/release-1", True),
        ("refs/heads/release-*", "refs/heads/release-1/x", False),
        ("refs/heads/release-*", "refs/heads/release-\n", True),
        ("acme", "ACME", False),
        ("acme", "acme\n", False),
        ("a*a", "a", False),
        ("a?", "ab", False),
    ],
)
def test_a_star_crosses_no_slash_and_no_colon(pattern: str, value: str, matches: bool) -> None:  # noqa: FBT001
    assert ClaimPattern(pattern).matches(value) is matches


async def test_claims_that_are_no_texts_are_compared_as_people_write_them() -> None:
    assert allowed(await identity(rule(ref_protected="true"), ref_protected=True), "main") == {"push"}
    assert allowed(await identity(rule(project_id="42"), project_id=42), "main") == {"push"}
    assert allowed(await identity(rule(groups="build"), groups=["other", "build"]), "main") == {"push"}
    assert allowed(await identity(rule(ref="*"), ref={"a": 1}), "main") == set()


async def test_the_text_of_a_claim_cannot_forge_a_line() -> None:
    who = await identity(rule(ref="x"), sub="a\nb" + "c" * 400, ref="y\r\n\x1b[2J" + "z" * 400)
    assert who.name.isprintable()
    assert len(who.name) < 300
    assert who.lacks is not None
    assert who.lacks.isprintable()
    assert len(who.lacks) < 200


@pytest.mark.parametrize(
    ("one", "other"), [("c" * 255 + "x", "c" * 255 + "y"), ("c" * 255, "c" * 256), ("a\nb", "a\x1bb"), ("a?b", "a\nb")]
)
async def test_two_subjects_are_two_principals_also_where_they_look_alike(one: str, other: str) -> None:
    """Two subjects with the same first 255 characters shared sessions, and were one in the audit log."""
    first, second = await identity(rule(ref="x"), sub=one), await identity(rule(ref="x"), sub=other)
    assert first.name != second.name
    assert first.subject != second.subject
    assert max(len(first.subject), len(second.subject)) < 300


async def test_keys_are_asked_for_by_the_first_token_and_then_remembered() -> None:
    documents = Documents(KEY)
    tokens = tokens_of(documents, rule(ref="x"))
    assert documents.asked == 0
    for _ in range(3):
        assert await tokens.principal(KEY.sign(claims_of(URL, NOW))) is not None
    assert documents.asked == 1


async def test_a_new_key_is_asked_for_and_unknown_ones_at_a_bounded_rate() -> None:
    documents, clock = Documents(KEY), Clock()
    tokens = tokens_of(documents, rule(ref="x"), clock=clock)
    assert await tokens.principal(KEY.sign(claims_of(URL, NOW))) is not None
    new = SigningKey.of("ES256", "two")
    documents.keys.append(new)
    unknown = SigningKey.of("EdDSA", "three")
    # It was asked just now, for the first token.
    assert await tokens.principal(new.sign(claims_of(URL, NOW))) is None
    assert documents.asked == 1
    clock.seconds += 31
    assert await tokens.principal(new.sign(claims_of(URL, NOW))) is not None
    for _ in range(50):
        assert await tokens.principal(unknown.sign(claims_of(URL, NOW))) is None
        clock.seconds += 1
    assert documents.asked == 3


async def test_a_key_that_the_issuer_takes_away_is_good_for_an_hour_at_most() -> None:
    documents, clock = Documents(KEY), Clock()
    tokens = tokens_of(documents, rule(ref="x"), clock=clock)
    assert await tokens.principal(KEY.sign(claims_of(URL, NOW))) is not None
    documents.keys = [SigningKey.of("ES256", "two")]
    clock.seconds += 3599
    assert await tokens.principal(KEY.sign(claims_of(URL, NOW))) is not None
    clock.seconds += 2
    assert await tokens.principal(KEY.sign(claims_of(URL, NOW))) is None


async def test_keys_are_kept_while_the_issuer_is_away_and_for_a_day_at_most() -> None:
    documents, clock = Documents(KEY), Clock()
    tokens = tokens_of(documents, rule(ref="x"), clock=clock)
    assert await tokens.principal(KEY.sign(claims_of(URL, NOW))) is not None
    documents.failure = UpstreamUnreachable("no connection")
    clock.seconds += 23 * 3600
    assert await tokens.principal(KEY.sign(claims_of(URL, NOW))) is not None
    # Whether the issuer has a key that is not known cannot be told.
    with pytest.raises(UpstreamUnreachable, match=URL):
        await tokens.principal(SigningKey.of("ES256", "two").sign(claims_of(URL, NOW)))
    clock.seconds += 3601
    with pytest.raises(UpstreamUnreachable, match="no connection"):
        await tokens.principal(KEY.sign(claims_of(URL, NOW)))
    documents.failure = None
    clock.seconds += 31
    assert await tokens.principal(KEY.sign(claims_of(URL, NOW))) is not None


async def test_an_issuer_that_failed_is_asked_again_after_five_seconds() -> None:
    """One failure was half a minute of 502 for every job."""
    documents, clock = Documents(KEY), Clock()
    tokens = tokens_of(documents, rule(ref="x"), clock=clock)
    documents.failure = UpstreamUnreachable("no connection")
    for _ in range(5):
        with pytest.raises(UpstreamUnreachable):
            await tokens.principal(KEY.sign(claims_of(URL, NOW)))
        clock.seconds += 0.9
    assert documents.asked == 1
    documents.failure = None
    clock.seconds += 0.6
    assert await tokens.principal(KEY.sign(claims_of(URL, NOW))) is not None


async def test_what_waits_for_the_keys_of_an_issuer_that_is_closed_can_be_answered() -> None:
    """A reload closed the issuer, and cancelled the requests that waited for it: their connections were cut."""
    asked = asyncio.Event()

    async def never(_: str) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    issuer = Issuer(URL, never)
    waiting = asyncio.create_task(issuer.key("one", "RS256"))
    await asked.wait()
    await issuer.aclose()
    with pytest.raises(UpstreamUnreachable, match="not asked any more"):
        await waiting


async def test_documents_of_another_issuer_are_not_believed() -> None:
    documents = Documents(KEY, url="https://other.example.org")
    with pytest.raises(UpstreamProtocolError, match="of another issuer"):
        await tokens_of(documents, rule(ref="x")).principal(KEY.sign(claims_of(URL, NOW)))


@pytest.mark.parametrize(("configured", "said", "in_token"), [(f"{URL}/", URL, URL), (URL, f"{URL}/", f"{URL}/")])
async def test_issuer_url_trailing_slash(configured: str, said: str, in_token: str) -> None:
    issuer = Issuer(configured, Documents(KEY, url=said))
    trusted = TrustedIssuer(name="ci", issuer=issuer, audience=AUDIENCE, rules=[rule(repository="acme/*")])
    tokens = IdTokens([trusted], lambda: NOW)
    who = await tokens.principal(KEY.sign(claims_of(in_token, NOW)))
    assert who is not None
    assert allowed(who, "main") == {"push"}
