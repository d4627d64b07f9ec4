"""Clients that would make a mirror give up an upstream that is well: they choose what is asked, not what it means."""

import asyncio
from pathlib import Path

import pytest
from fault_upstream import Connection, FaultUpstream, Speak, package, status
from mirrors import fetch, mirror_of

from harmonia_py.cache.found import Found
from harmonia_py.cache.source import DocumentKind
from harmonia_py.errors import HarmoniaError, Overloaded
from harmonia_py.mirror import upstreams
from harmonia_py.mirror.breaker import FAILURES
from harmonia_py.web.http.errors import status_of

# Few at once, so that a machine with other work has answered them in time as well.
AT_ONCE = 12
# More than that, and than an upstream that takes so long answers within the budget.
CROWD = 60
ANSWER_SECONDS = 1.5
BUDGET = 5.0


def late(answer: Speak) -> Speak:
    async def speak(connection: Connection) -> None:
        await asyncio.sleep(ANSWER_SECONDS)
        await answer(connection)

    return speak


async def test_a_crowd_waits_for_us_and_the_upstream_is_not_blamed_for_it(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that a question waited for one of our own connections counted as the upstream's: six hundred questions
    at once opened the breaker of one that answered each in a quarter of a second, and then its paths were 404."""
    monkeypatch.setattr(upstreams, "_QUESTIONS_AT_ONCE", AT_ONCE)
    crowd = [package(number, size=10, compression="none") for number in range(CROWD)]
    upstream.serve(*crowd)
    for one in crowd:
        upstream.answers[f"/{one.hash_part}.narinfo"] = late(upstream.answers[f"/{one.hash_part}.narinfo"])
    async with mirror_of(upstream, directory=tmp_path, budget=BUDGET) as mirror:
        answers = await asyncio.gather(*(mirror.narinfo(one.hash_part) for one in crowd), return_exceptions=True)
        assert not mirror._upstreams.unknown_is_not_found
        found = [answer for answer in answers if isinstance(answer, Found)]
        others = [answer for answer in answers if not isinstance(answer, Found)]
        assert len(found) > AT_ONCE
        assert others
        assert {type(answer) for answer in others} == {Overloaded}
        assert {status_of(answer) for answer in others if isinstance(answer, Overloaded)} == {503}
        # Who comes back is served.
        assert await mirror.narinfo(crowd[-1].hash_part) is not None


@pytest.mark.parametrize("code", [500, 400])
async def test_files_that_an_upstream_fails_at_say_nothing_of_its_narinfos(
    upstream: FaultUpstream, tmp_path: Path, code: int
) -> None:
    """Some caches answer 500 to every log, and to a NAR whose files are gone. Three such URLs, which a client chooses,
    opened the breaker, and for a minute every path of that cache was 404."""
    good = package(0)
    upstream.serve(good)
    upstream.default = status(code)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        for number in range(1, FAILURES + 2):
            other = package(number)
            upstream.serve(other)
            upstream.answers[f"/{other.path}"] = status(code)
            for asked in (
                mirror.document(DocumentKind.LOG, other.path_info.store_path),
                mirror.document(DocumentKind.LISTING, other.hash_part),
                fetch(mirror, other),
            ):
                with pytest.raises(HarmoniaError):
                    await asked
        assert await mirror.narinfo(good.hash_part) is not None
        assert await fetch(mirror, good) == good.file


async def test_narinfos_that_an_upstream_fails_at_open_its_breaker_still(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    upstream.default = status(500)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        for number in range(FAILURES - 1):
            with pytest.raises(HarmoniaError):
                await mirror.narinfo(package(number).hash_part)
        assert await mirror.narinfo(package(FAILURES).hash_part) is None
