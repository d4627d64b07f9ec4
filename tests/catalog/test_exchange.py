"""Tokens of an issuer exchanged for tokens of the catalog: how long each lasts, and what it may do."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from catalogs import BACKENDS, opened_catalog
from issuer import AUDIENCE, SUBJECT, claims_of
from oidc_documents import KEY, URL, Documents, rule

from harmonia_py.cache.access import Action
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.exchange import TokenExchange
from harmonia_py.catalog.tokens import CatalogTokens
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import NotAuthenticated, NotPermitted
from harmonia_py.oidc.issuer import Issuer
from harmonia_py.oidc.tokens import IdTokens, TrustedIssuer

NOW: Final = 1_800_000_000
MAIN: Final = CacheName("main")


class World:
    """A catalog, an issuer, and a clock of both."""

    def __init__(self, catalog: SqlCatalog) -> None:
        self.now = float(NOW)
        rules = [rule("push", "main", 7200, repository="acme/*"), rule("read", "deps", 3600, repository="acme/*")]
        trusted = TrustedIssuer(name="ci", issuer=Issuer(URL, Documents(KEY)), audience=AUDIENCE, rules=rules)
        id_tokens = IdTokens([trusted], lambda: self.now)
        self.tokens = CatalogTokens(catalog.access, lambda: self.now)
        self.exchange = TokenExchange(
            id_tokens.principal,
            id_tokens.audiences,
            access=catalog.access,
            audit=catalog.audit,
            clock=lambda: self.now,
        )


@pytest.fixture(params=BACKENDS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with opened_catalog(request.param, tmp_path) as catalog:
        yield World(catalog)


async def test_what_it_may_do_and_for_how_long(world: World) -> None:
    exchanged = await world.exchange.exchange(KEY.sign(claims_of(URL, NOW)))
    who = await world.tokens.principal(str(exchanged.token))
    assert who is not None
    # Of the rules that let it in the one that lasts the shortest.
    assert (exchanged.identity.seconds, who.expires) == (3600, NOW + 3600)
    assert who.name == f"ci identity {SUBJECT}"
    assert {action for action in Action if who.may(action, MAIN)} == {Action.PUSH}
    assert {action for action in Action if who.may(action, CacheName("deps"))} == {Action.READ}


async def test_replay_after_exchange_expiry(world: World) -> None:
    """A token that was read in the log of a job: neither it nor what it was exchanged for opens anything later."""
    id_token = KEY.sign(claims_of(URL, NOW))
    exchanged = await world.exchange.exchange(id_token)
    world.now = NOW + 3599
    assert await world.tokens.principal(str(exchanged.token)) is not None
    with pytest.raises(NotAuthenticated, match="expired"):
        await world.exchange.exchange(id_token)
    world.now = NOW + 3600
    with pytest.raises(NotAuthenticated, match="expired"):
        await world.tokens.principal(str(exchanged.token))


async def test_one_that_no_rule_lets_in_gets_none(world: World) -> None:
    with pytest.raises(NotPermitted, match="rule 1 does not take its claim repository, 'mallory/x'"):
        await world.exchange.exchange(KEY.sign(claims_of(URL, NOW, repository="mallory/x")))
