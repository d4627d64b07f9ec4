"""Paths sent as recipes by the client, to a real server in this process."""

import asyncio
import hashlib
import json
from array import array
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from chunking import make_chunks
from house import Clock, House
from lab import Lab
from pushing import pushed_to
from rebuilds import contents_of, rebuild
from serving import TIME_LIMIT

from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.chunks.recipe_writer import RecipeWriter
from harmonia_py.client.answers import SessionInfo
from harmonia_py.client.api import PushApi
from harmonia_py.client.chunk_api import ChunkApi
from harmonia_py.client.cut_nar import SentRecipe, TooMuchMissing
from harmonia_py.client.http import HttpServer
from harmonia_py.client.made_file import PART_BYTES
from harmonia_py.client.outcomes import Outcome, Summary
from harmonia_py.client.push import Push, PushSettings
from harmonia_py.errors import NotPermitted, UpstreamProtocolError, UpstreamUnreachable
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push import recipes
from harmonia_py.store.closure import StoreClosures
from harmonia_py.store.sqlite import SqliteStore
from harmonia_py.web.api import chunks

CONTENTS: Final = contents_of(700_000)
CHUNKS: Final = CacheSettings(deduplicate="chunks")


class Bar:
    """`Events` that add up."""

    def __init__(self) -> None:
        self.paths = self.planned_bytes = self.advanced_bytes = 0

    def planned(self, paths: int, nar_bytes: int) -> None:
        self.paths += paths
        self.planned_bytes += nar_bytes

    def advanced(self, nar_bytes: int) -> None:
        self.advanced_bytes += nar_bytes


class Team:
    """A cache with one build of a program in chunks, and a client of it."""

    def __init__(self, house: House, api: PushApi, store: StoreClosures) -> None:
        self.house, self.api, self.store = house, api, store
        self.bar = Bar()

    async def push(self, path: StorePath) -> Outcome:
        """Push a path, which must go well, and say how; the bar must have come to its end."""
        self.bar = Bar()
        summary: Summary = await Push(self.api, self.store, self.bar).run([path])
        assert summary.is_good, summary
        assert self.bar.advanced_bytes == self.bar.planned_bytes
        return next(outcome for outcome in summary.outcomes if outcome.path == path)


@asynccontextmanager
async def opened(lab: Lab, tmp_path: Path, settings: CacheSettings = CHUNKS) -> AsyncIterator[Team]:
    store = StoreClosures(store_dir=lab.store_dir, real_store=lab.real_store)
    store.database = SqliteStore(lab.database, lab.store_dir)
    async with (
        pushed_to(tmp_path, lab.store_dir, settings) as server,
        HttpServer(f"http://127.0.0.1:{server.port}", "pusher", patience=5.0) as http,
    ):
        yield Team(House(server, Clock()), PushApi(http, "team/"), store)
    await store.database.aclose()


@pytest.fixture
async def team(lab: Lab, tmp_path: Path) -> AsyncIterator[Team]:
    async with opened(lab, tmp_path) as team:
        first = await team.push(rebuild(lab, CONTENTS, "one"))
        assert first.saved == 0
        assert (await make_chunks(team.house)).files == 2
        yield team


async def test_a_rebuild_is_sent_as_a_recipe(team: Team, lab: Lab) -> None:
    done = await team.push(rebuild(lab, CONTENTS, "two"))
    assert done.sent < 20_000
    assert done.saved > 300_000


async def test_the_cache_is_asked_once_for_what_is_like_many_paths(team: Team, lab: Lab) -> None:
    """Each path was a question of its own, though one may have a hundred names."""
    paths = [rebuild(lab, CONTENTS, str(number)) for number in range(3)]
    paths.append(rebuild(lab, contents_of(700_000, seed=3), "other", "other-1.0"))
    summary = await Push(team.api, team.store, Bar()).run(paths)
    assert summary.is_good
    assert summary.saved > 3 * 300_000
    seen = [json.loads(line)["path"] for line in "".join(team.house.server.log).splitlines()]
    assert sum(path.endswith("/chunks/bases") for path in seen) == 2, "of the push before, and of this one"


async def test_a_question_that_failed_is_not_asked_again_for_each_path(
    team: Team, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight paths that were sent at once waited for the server one after the other, two minutes each."""
    asked = 0

    async def fail(*_: object) -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise UpstreamUnreachable("no answer")

    monkeypatch.setattr(ChunkApi, "bases", fail)
    paths = [rebuild(lab, CONTENTS, str(number), f"program{number}-1.0") for number in range(3)]
    summary = await Push(team.api, team.store, Bar(), PushSettings(jobs=3)).run(paths)
    assert (summary.is_good, summary.saved, asked) == (True, 0, 1)


async def test_what_is_new_is_sent_in_one_request_however_long_it_is(team: Team, lab: Lab) -> None:
    """What does not fit a part goes through a file, so that no push takes more memory than a part."""
    contents = contents_of(12_000_000, seed=2)
    await team.push(rebuild(lab, contents[:8_000_000], "one", "large-1"))
    await make_chunks(team.house)
    done = await team.push(rebuild(lab, contents, "two", "large-2"))
    assert done.sent > PART_BYTES
    assert done.saved > done.sent


@pytest.mark.parametrize("why", ["it is small", "nothing is like it", "most is new", "there are no chunks"])
async def test_what_is_not_worth_a_recipe_is_sent_whole(team: Team, lab: Lab, tmp_path: Path, why: str) -> None:
    if why == "there are no chunks":
        (tmp_path / "files").mkdir()
        async with opened(lab, tmp_path / "files", CacheSettings()) as files:
            assert (await files.push(rebuild(lab, CONTENTS, "two"))).saved == 0
        return
    contents = {"it is small": CONTENTS[:50_000], "most is new": contents_of(700_000, seed=3)}.get(why, CONTENTS)
    name = "other-1.0" if why == "nothing is like it" else "program-1.0"
    done = await team.push(rebuild(lab, contents, "two", name))
    assert done.saved == 0
    assert done.sent > 10_000


async def test_a_path_whose_chunk_is_lost_meanwhile_is_sent_whole(
    team: Team, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, ask = team.house.server, ChunkApi.missing

    async def lose_one(
        self: ChunkApi, session: SessionInfo, bases: Sequence[HashPart], chunks: Sequence[ChunkHash], at_once: int
    ) -> Collection[ChunkHash]:
        missing = await ask(self, session, bases, chunks, at_once)
        lost = next(chunk for chunk in chunks if chunk not in missing)
        await server.catalog.chunks.lose(lost, with_pack=True, now=server.node.now())
        return missing

    monkeypatch.setattr(ChunkApi, "missing", lose_one)
    done = await team.push(rebuild(lab, CONTENTS, "two"))
    assert (done.saved, done.sent > 300_000) == (0, True)


async def test_a_server_that_refuses_recipes_over_and_over_is_sent_no_more_of_them(
    team: Team, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "_MOST_REPEATED", 0)
    monkeypatch.setattr(recipes, "_NOT_COUNTED_BYTES", 0)
    paths = [rebuild(lab, CONTENTS, str(number)) for number in range(5)]
    summary = await Push(team.api, team.store, Bar(), PushSettings(jobs=1)).run(paths)
    assert summary.is_good
    assert summary.saved == 0
    seen = [json.loads(line)["path"] for line in "".join(team.house.server.log).splitlines()]
    assert sum("/recipes/" in path for path in seen) == 3


@pytest.mark.parametrize("error", [UpstreamProtocolError("other chunks"), NotPermitted("not any more")])
async def test_whatever_the_server_answers_the_path_goes_whole(
    team: Team, lab: Lab, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A token whose permission to read was taken away during the push failed each path."""

    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ChunkApi, "missing", fail)
    assert (await team.push(rebuild(lab, CONTENTS, "two"))).saved == 0


async def test_a_server_that_misses_what_it_was_not_asked_for_makes_no_sense(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client ended with a traceback."""

    async def other(*_: object) -> object:
        return {"missing": ["00" * 32]}

    monkeypatch.setattr(ChunkApi, "_post", other)
    session = await team.api.begin()
    with pytest.raises(UpstreamProtocolError):
        await team.api.chunks.missing(session, [], [ChunkHash(b"1" * 32)], 10)


async def test_what_is_more_than_comes_with_a_recipe_goes_whole(
    team: Team, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar did not come to its end: what had been read for the recipe was taken from it twice."""
    contents = contents_of(12_000_000, seed=2)
    await team.push(rebuild(lab, contents[:8_000_000], "one", "large-1"))
    await make_chunks(team.house)
    monkeypatch.setattr(chunks, "MAX_SENT_BYTES", 700_000)
    done = await team.push(rebuild(lab, contents, "two", "large-2"))
    assert (done.saved, done.sent > PART_BYTES) == (0, True)


def test_no_more_is_compressed_than_may_be_sent() -> None:
    """30 MB of frames were made before the client saw that the server takes 1 MB of them."""
    data = [bytes([number]) * 600 for number in range(100)]
    writer = RecipeWriter()
    for one in data:
        writer.add_chunk(ChunkHash(hashlib.sha256(one).digest()), len(one), 1)
    recipe = writer.finish(Hash.of(b"x"), [], array("Q"), array("H"))
    read = 0

    def nar() -> Iterator[bytes]:
        nonlocal read
        for one in data:
            read += 1
            yield one

    sent = SentRecipe(recipe, list(recipe.chunks()), 3, most=200, most_recipe=10_000)
    with pytest.raises(TooMuchMissing):
        list(sent.pieces(nar()))
    assert read < 20


async def test_a_push_that_is_cut_stops_to_cut(team: Team, lab: Lab) -> None:
    """A client whose push had been cut went on to read a NAR of gigabytes to its end."""
    path = rebuild(lab, CONTENTS, "two")
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    class Endless(StoreClosures):
        def nar(self, info: PathInfo) -> Iterator[bytes | memoryview]:
            if info.store_path != path:
                yield from super().nar(info)
                return
            yield next(iter(super().nar(info)))[:10_000]
            loop.call_soon_threadsafe(begun.set)
            while True:
                yield bytes(1000)

    team.store.__class__ = Endless
    pushing = asyncio.create_task(Push(team.api, team.store, Bar()).run([path]))
    async with asyncio.timeout(TIME_LIMIT):
        await begun.wait()
        pushing.cancel()
        await asyncio.wait([pushing])
    assert pushing.cancelled()


async def test_a_nar_that_changes_between_its_two_readings_is_not_pushed(team: Team, lab: Lab) -> None:
    """The client reads a NAR twice: to cut it, and to send what is missing."""
    contents = contents_of(900_000)
    path = rebuild(lab, contents, "two")
    reads = 0

    class Changing(StoreClosures):
        def nar(self, info: PathInfo) -> Iterator[bytes | memoryview]:
            nonlocal reads
            reads += info.store_path == path
            data = b"".join(map(bytes, super().nar(info)))
            yield data if reads < 2 or info.store_path != path else data.replace(contents[-50:], b"x" * 50)

    team.store.__class__ = Changing
    summary = await Push(team.api, team.store, Bar()).run([path])
    (failed,) = summary.failures
    assert (failed.path, "changed" in failed.reason) == (path, True)
