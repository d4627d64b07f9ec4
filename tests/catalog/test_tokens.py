"""Tokens of the catalog, on a real database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from catalogs import NOW, later, opened_catalog
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.cache.access import Action, CachePattern
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.tokens import CatalogTokens, Token, new_token
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import FormatError, NotAuthenticated

TEAM = CachePattern("team-*")


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    async with opened_catalog("sqlite", tmp_path) as catalog:
        yield catalog


async def add(catalog: SqlCatalog, name: str = "ci", expires: Timestamp | None = None) -> str:
    token, row = new_token(name, [Action.READ, Action.PUSH], [TEAM], now=NOW, expires=expires)
    await catalog.access.add(row)
    return str(token)


def tokens(catalog: SqlCatalog, at: int = NOW) -> CatalogTokens:
    return CatalogTokens(catalog.access, clock=lambda: at)


async def test_a_token_is_its_principal(catalog: SqlCatalog) -> None:
    principal = await tokens(catalog).principal(await add(catalog, expires=later(60)))
    assert principal is not None
    assert principal.name == "token ci"
    assert principal.expires == later(60)
    assert principal.may(Action.PUSH, CacheName("team-a"))
    assert not principal.may(Action.DELETE, CacheName("team-a"))
    assert not principal.may(Action.READ, CacheName("other"))


async def test_the_secret_is_nowhere_in_the_catalog(catalog: SqlCatalog, tmp_path: Path) -> None:
    token = Token.parse(await add(catalog))
    kept = _bytes_in(tmp_path)
    assert token.id.encode() in kept
    assert token.secret.encode() not in kept
    assert token.secret not in repr(new_token("x", [], [], now=NOW, expires=None)[1])


async def test_a_part_of_a_token_opens_nothing(catalog: SqlCatalog) -> None:
    token, other = await add(catalog), await add(catalog, "other")
    one, two = Token.parse(token), Token.parse(other)
    wrong = [f"hpy_{one.id}_{two.secret}", f"hpy_{one.id}_", f"hpy_{one.id}_{one.secret_hash.hex()}", token[:-1]]
    wrong += [token + "A", token.upper(), f"hpy__{one.secret}", "hpy_", f"hpy_{'a' * 10}_{one.secret}", f"{token}\n"]
    for text in wrong:
        assert tokens(catalog).takes(text) or not text.startswith("hpy_")
        assert await tokens(catalog).principal(text) is None, text


async def test_the_holder_of_a_token_that_has_ended_learns_why(catalog: SqlCatalog) -> None:
    token = await add(catalog, expires=later(60))
    assert await tokens(catalog, later(59)).principal(token) is not None
    with pytest.raises(NotAuthenticated, match=r"the token ci expired on 2023-11-14; ask for another one"):
        await tokens(catalog, later(60)).principal(token)
    await catalog.access.revoke("ci", now=later(61))
    with pytest.raises(NotAuthenticated, match=r"the token ci was revoked; ask for another one"):
        await tokens(catalog, later(62)).principal(token)
    # Who has only its id does not.
    assert await tokens(catalog, later(62)).principal(f"{token[:-1]}x") is None


async def test_a_name_is_free_again_once_its_token_is_revoked(catalog: SqlCatalog) -> None:
    before = await add(catalog)
    await catalog.access.revoke("ci", now=NOW)
    after = await add(catalog)
    assert await tokens(catalog).principal(after) is not None
    with pytest.raises(NotAuthenticated):
        await tokens(catalog).principal(before)


def _bytes_in(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.iterdir())


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "a\n", "é"])
def test_a_name_that_could_break_a_line_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        new_token(name, [], [], now=NOW, expires=None)


@given(st.text())
def test_any_text_is_a_token_or_none(text: str) -> None:
    try:
        assert str(Token.parse(text)) == text
    except FormatError:
        assert text != str(Token.generate())


def test_a_token_fits_where_clients_keep_it() -> None:
    """libcurl up to 8.11 reads lines of a netrc up to 4,096 bytes."""
    token = str(Token.generate())
    assert Token.parse(token) != Token.generate()
    assert len(token) == 58
    assert token.isascii()
    assert ":" not in token
