"""A cache by its name has every URL that the cache at `/` has, and is as fast."""

from collections.abc import AsyncIterator

import pytest
from serving import ABSENT, DRV_OUTPUT, LOG_NAME, PATH
from teams import TeamServer, advance, served_teams

from harmonia_py.cache.access import Generation
from harmonia_py.nix.hashes import Hash
from harmonia_py.web.fast.ready_answers import NarinfoRequest

NARINFO = f"{PATH.hash_part}.narinfo"
TOKEN = {"Authorization": "Bearer reader"}


@pytest.fixture
async def served() -> AsyncIterator[TeamServer]:
    async with served_teams() as served:
        yield served


async def test_every_url_of_a_cache_is_there_below_its_name(served: TeamServer) -> None:
    nar = f"nar/{PATH.hash_part}.nar"
    found = ["", "nix-cache-info", NARINFO, f"{NARINFO}?json", nar, f"{PATH.hash_part}.ls", f"log/{LOG_NAME}"]
    found += [f"realisations/{DRV_OUTPUT}.doi", "search?q=x", f"path/{PATH.hash_part}"]
    absent = [f"{ABSENT}.narinfo", f"nar/{ABSENT}.nar", f"{ABSENT}.ls", "debuginfo/" + "a" * 40]
    absent += [f"serve/{PATH.hash_part}/x", f"build-trace-v2/{LOG_NAME}/out.doi", "no/such/url"]
    for path in found:
        assert (await served.get(f"/{path}")).status == 200, path
        assert (await served.get(f"/open/{path}")).status == 200, path
        assert (await served.get(f"/team/{path}", TOKEN)).status == 200, path
    for path in absent:
        assert (await served.get(f"/open/{path}")).status == 404, path
        assert (await served.get(f"/team/{path}", TOKEN)).status == 404, path
    assert (await served.get("/team/nix-cache-info", TOKEN)).body.endswith(b"Priority: 4\n")


async def test_what_a_cache_has_is_its_own(served: TeamServer) -> None:
    answers = [(await served.get(f"{root}/{NARINFO}", TOKEN)).body for root in ("", "/open", "/team")]
    assert len(set(answers)) == 3
    again = [(await served.get(f"{root}/{NARINFO}", TOKEN)).body for root in ("", "/open", "/team")]
    assert again == answers
    team = Hash.of(b"team" * 100).nix32
    assert f"NarHash: sha256:{team}\n".encode() in answers[2]
    url = f"nar/{team}.nar?hash={PATH.hash_part}"
    assert (await served.get(f"/team/{url}", TOKEN)).body == b"team" * 100
    assert (await served.get(f"/open/{url}")).status == 404


async def test_the_default_cache_has_its_name_as_well(served: TeamServer) -> None:
    assert (await served.get(f"/default/{NARINFO}")).body == (await served.get(f"/{NARINFO}")).body


async def test_pages_lead_to_pages_of_the_same_cache(served: TeamServer) -> None:
    url = "http://localhost/open"
    page = (await served.get(f"/open/path/{PATH.hash_part}")).body.decode()
    assert f"--option extra-substituters {url}" in page
    assert 'href="../"' in page
    home = (await served.get("/open/")).body.decode()
    assert f"extra-substituters = {url}<" in home
    assert "/open/open" not in home
    answer = await served.get(f"/open/search?q={PATH.hash_part}")
    assert (answer.status, answer.headers["Location"]) == (302, f"./path/{PATH.hash_part}")
    answer = await served.get("/open")
    assert (answer.status, answer.headers["Location"]) == (302, "open/")


async def test_a_ready_narinfo_of_a_named_cache_is_ready(served: TeamServer) -> None:
    token = "Authorization: Bearer reader"
    first = await served.ask(f"/team/{NARINFO}", token)
    source = served.teams.sources["team"]
    asked = list(source.asked)
    for _ in range(3):
        again = await served.ask(f"/team/{NARINFO}", token)
        assert (again.status, again.body) == (200, first.body)
    assert source.asked == asked
    assert served.tokens.asked == 1
    lines = served.access_lines()
    assert all(f'"GET /team/{NARINFO}" 200' in line for line in lines)


async def test_a_narinfo_that_is_not_ready_takes_the_short_way_too(served: TeamServer) -> None:
    """The framework's way is four times as long."""
    assert (await served.ask(f"/open/{NARINFO}")).status == 200
    requests = served.serving.answers
    found = requests.find(f"GET /open/{ABSENT}.narinfo HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert found is not None
    _, asked = found
    assert isinstance(asked, NarinfoRequest)
    assert asked.target == f"open/{ABSENT}.narinfo"
    assert (await served.ask(f"/open/{ABSENT}.narinfo")).status == 404


async def test_a_ready_answer_ends_with_its_cache(served: TeamServer) -> None:
    for _ in range(2):
        assert (await served.ask(f"/open/{NARINFO}")).status == 200
    served.teams.public = {}
    advance(served.generation)
    assert (await served.ask(f"/open/{NARINFO}")).status == 401


async def test_an_answer_made_for_a_cache_that_is_gone_is_not_kept(served: TeamServer) -> None:
    """Found before the cache was deleted, and put by after."""
    assert (await served.ask(f"/open/{NARINFO}")).status == 200
    cache = served.serving.caches.known("open")
    assert cache is not None
    advance(served.generation)
    served.serving.forget_what_is_old()
    assert not served.serving.serves(cache)


async def test_a_change_that_never_ends_keeps_nothing_ready(served: TeamServer) -> None:
    """A process that died while it changed something may have changed it."""
    token = "Authorization: Bearer reader"
    assert (await served.ask(f"/team/{NARINFO}", token)).status == 200
    served.generation.cells[0] |= 1
    before = served.tokens.asked
    for _ in range(3):
        assert (await served.ask(f"/team/{NARINFO}", token)).status == 200
    assert served.tokens.asked == before + 3


async def test_ten_thousand_caches_are_made_when_they_are_asked() -> None:
    async with served_teams({f"team-{number}": True for number in range(10_000)}) as served:
        assert served.teams.asked == []
        assert (await served.get("/team-7/nix-cache-info")).status == 200
        assert served.teams.asked == served.teams.made == ["team-7"]


async def test_a_server_without_others_looks_nowhere() -> None:
    async with served_teams() as served:
        assert (await served.get(f"/{NARINFO}")).status == 200
        assert (await served.get("/nothing.txt")).status == 404
        assert served.teams.asked == []


def test_the_generation_of_a_server_alone_is_its_own() -> None:
    assert Generation().cells is not Generation().cells
