"""Principals, what they are allowed, and the names of caches."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.cache.access import ANONYMOUS, Action, CachePattern, Generation, Principal, grants_of
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.cache_name import DEFAULT, RESERVED, CacheName
from harmonia_py.cache.caches import Caches, NamedCache
from harmonia_py.errors import FormatError
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.web.routes import attic_routes, push_routes, routes, token_routes

EMPTY = BinaryCache(
    cache_info=CacheInfo(StoreDir("/nix/store"), want_mass_query=True, priority=30), sources=[], secret_keys=[]
)
TEAM = CacheName.parse("team")
NAMES = st.text("ab-", min_size=1, max_size=8).filter(lambda text: not text.startswith("-"))
PATTERNS = st.text("ab-*", min_size=1, max_size=8).filter(lambda text: not text.startswith("-"))


@pytest.mark.parametrize("text", ["a", "team", "Team-2_x+y", "0", "a" * 50, "default"])
def test_a_name_of_a_cache_is_kept_as_it_is(text: str) -> None:
    assert CacheName.parse(text) == text


@pytest.mark.parametrize("text", ["", "-a", "_api", "+", ".", "..", "a.b", "a/b", "a%2fb", "a b", "a\n", "é", "a" * 51])
def test_what_could_be_another_path_is_no_name(text: str) -> None:
    with pytest.raises(FormatError):
        CacheName.parse(text)


def test_a_digit_of_another_script_is_none() -> None:
    with pytest.raises(FormatError):
        CacheName.parse("team\N{ARABIC-INDIC DIGIT THREE}")


@pytest.mark.parametrize("text", sorted(RESERVED))
def test_a_name_that_is_reserved_is_none(text: str) -> None:
    with pytest.raises(FormatError):
        CacheName.parse(text)


def test_no_cache_can_have_the_first_segment_of_another_url() -> None:
    """`/pins` was not reserved: the page of a cache of that name was that of the pins of the cache at `/`."""
    at_root = [*routes(), *push_routes(), *token_routes(), *attic_routes()]
    first = {route.path.split("/")[1].partition("{")[0] for route in at_root}
    for segment in first - {""}:
        with pytest.raises(FormatError):
            CacheName.parse(segment)


@given(PATTERNS, NAMES)
def test_a_pattern_matches_what_the_shell_would(pattern: str, name: str) -> None:
    assert CachePattern.parse(pattern).matches(CacheName(name)) == fnmatchcase(name, pattern)


def test_no_pattern_takes_long() -> None:
    """As a regular expression, this one would take years."""
    assert not CachePattern.parse("a*" * 50).matches(CacheName("a" * 49))


@pytest.mark.parametrize("text", ["", "a/b", "?", "[a]", "a b", "a" * 101, "."])
def test_other_patterns_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        CachePattern.parse(text)


def test_a_principal_may_do_what_is_granted_where_it_is() -> None:
    ci = Principal("token ci", grants_of(["read", "push"], ["team-*", "shared"]))
    assert ci.may(Action.PUSH, CacheName("team-a"))
    assert ci.may(Action.READ, CacheName("shared"))
    assert not ci.may(Action.DELETE, CacheName("team-a"))
    assert not ci.may(Action.READ, TEAM)
    assert not ANONYMOUS.may(Action.READ, TEAM)


def test_an_administrator_may_do_everything_where_it_is_one() -> None:
    admin = Principal("token admin", grants_of(["admin"], ["team-*"]))
    assert all(admin.may(action, CacheName("team-a")) for action in Action)
    assert not any(admin.may(action, TEAM) for action in Action)


@pytest.mark.parametrize(("actions", "patterns"), [(["write"], ["*"]), (["read"], ["a/b"])])
def test_what_is_no_action_and_no_pattern_is_not_granted(actions: list[str], patterns: list[str]) -> None:
    with pytest.raises(FormatError):
        grants_of(actions, patterns)


def test_a_public_cache_is_read_by_everybody_and_nothing_else_is_done_to_it() -> None:
    public = NamedCache(TEAM, public=True, make=_never)
    private = NamedCache(TEAM, public=False, make=_never)
    assert public.allows(ANONYMOUS, Action.READ)
    assert [action for action in Action if public.allows(ANONYMOUS, action)] == [Action.READ]
    assert not private.allows(ANONYMOUS, Action.READ)
    assert private.allows(Principal("token a", grants_of(["read"], ["team"])), Action.READ)


def test_a_change_of_the_generation_is_seen_once_and_at_each_look_while_it_is_under_way() -> None:
    generation = Generation()
    assert [generation.has_changed() for _ in range(2)] == [True, False], "nothing has been decided before"
    generation.cells[0] += 1
    assert [generation.has_changed() for _ in range(3)] == [True, True, True]
    generation.cells[0] += 1
    assert [generation.has_changed() for _ in range(2)] == [True, False]


class Declared:
    """Caches that are declared somewhere, counting how often that is asked."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.asked: list[str] = []

    async def find(self, name: CacheName) -> NamedCache | None:
        self.asked.append(name)
        return NamedCache(name, public=True, make=_never) if name in self.names else None


async def test_a_cache_is_looked_up_once_until_that_is_forgotten() -> None:
    declared = Declared("team")
    caches = Caches(EMPTY, find=declared.find)
    first = await caches.find(TEAM)
    assert first is not None
    assert await caches.find(TEAM) is first is caches.known("team")
    assert await caches.find(CacheName("none")) is await caches.find(CacheName("none")) is None
    assert declared.asked == ["team", "none"]
    caches.forget()
    assert caches.known("team") is None
    assert await caches.find(TEAM) is not first
    assert declared.asked == ["team", "none", "team"]


async def test_what_is_remembered_of_names_is_bounded() -> None:
    declared = Declared("team")
    caches = Caches(EMPTY, find=declared.find)
    for number in range(5000):
        await caches.find(CacheName(f"guess-{number}"))
    await caches.find(CacheName("guess-0"))
    assert declared.asked.count("guess-0") == 2


async def test_a_server_of_one_cache_looks_up_no_other() -> None:
    caches = Caches(EMPTY)
    assert not caches.has_others
    assert await caches.find(TEAM) is None
    assert await caches.find(DEFAULT) is caches.default is caches.known("default")


def _never() -> BinaryCache:
    raise AssertionError("it was made")
