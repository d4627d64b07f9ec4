"""NARs that clients push as recipes: made here of chunks that the cache has and of those that come."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from chunking import HELLO, LIBRARY, OTHER, make_chunks, nar_of, program
from house import Clock, House, download, status, team
from pushed_paths import PATH, REFERENCE, STORE, pushed
from pushing import OTHER as OTHER_CACHE
from pushing import TEAM, pushed_to
from recipe_client import Cut, RecipeClient
from s3_double import S3Double
from waiting import eventually

from harmonia_py.cache.access import Principal
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.catalog.nars import PACKS
from harmonia_py.catalog.uploads import SESSION_SECONDS
from harmonia_py.chunks.pack_collector import GRACE_SECONDS
from harmonia_py.chunks.reading import bytes_of
from harmonia_py.chunks.sizes import SIZES
from harmonia_py.client.answers import ChunkTerms
from harmonia_py.database.uploads import SqlUploads
from harmonia_py.errors import PushConflict, StorageError
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push import checking
from harmonia_py.wiring.pushing import PushNode

CHUNKS = CacheSettings(deduplicate="chunks")
REBUILT = StorePath("5rz1m1y0wlkzfs1b6pa0rr4x5kbbcl9q-hello-2.12.1")
AGAIN = pushed(REBUILT, program(REBUILT), REFERENCE, compression="zstd")
"""`HELLO` with another hash part of its own."""
CHANGED = pushed(OTHER, program(OTHER, 900_000), REFERENCE, compression="zstd")
"""`HELLO` with more behind it."""


@pytest.fixture(params=["directory", "bucket"])
async def house(request: pytest.FixtureRequest, tmp_path: Path, double: S3Double) -> AsyncIterator[House]:
    clock, s3 = Clock(), double.settings() if request.param == "bucket" else None
    async with pushed_to(tmp_path, STORE, CHUNKS, clock, s3=s3) as server:
        house = House(server, clock)
        await house.published(LIBRARY, HELLO)
        assert (await make_chunks(house)).files == 2
        yield house


async def test_of_a_rebuild_no_chunk_is_sent(house: House) -> None:
    client = await RecipeClient.begun(house.server)
    sent = await client.push(AGAIN)
    assert sent < len(AGAIN.data) / 100
    assert nar_of((await download(house, AGAIN)).body) == nar_of(AGAIN.data)


async def test_chunks_that_are_new_are_sent(house: House) -> None:
    client = await RecipeClient.begun(house.server)
    sent = await client.push(CHANGED)
    assert len(CHANGED.data) / 20 < sent < len(CHANGED.data) / 2
    assert nar_of((await download(house, CHANGED)).body) == nar_of(CHANGED.data)


async def test_what_was_made_by_a_recipe_becomes_chunks_without_new_bytes(house: House) -> None:
    """Its file was made of the frames that the job finds, so that its FileHash stays."""
    client = await RecipeClient.begun(house.server)
    await client.push(AGAIN)
    before = (await house.server.get(f"/{REBUILT.hash_part}.narinfo")).body
    done = await make_chunks(house)
    assert (done.files, done.new_bytes) == (1, 0)
    assert (await house.server.get(f"/{REBUILT.hash_part}.narinfo")).body == before
    assert nar_of((await download(house, AGAIN)).body) == nar_of(AGAIN.data)


async def test_a_path_that_is_like_none_has_no_bases(house: House) -> None:
    client = await RecipeClient.begun(house.server)
    assert await client.bases("other-1.0") == []
    recipe = Cut.of(AGAIN).recipe
    assert await client.missing(recipe.chunks(), []) == list(recipe.chunks())


async def test_a_recipe_that_is_sent_again_is_harmless(house: House) -> None:
    client = await RecipeClient.begun(house.server)
    cut, bases = Cut.of(CHANGED), await client.bases(OTHER.name)
    body = cut.body(await client.missing(cut.recipe.chunks(), bases))
    answers = [await client.send(CHANGED.claim.path_info.nar_hash, body, bases) for _ in range(2)]
    assert answers[0].body == answers[1].body
    assert await client.publish(CHANGED, answers[1]) == "published"


async def test_bases_stay_while_the_session_lives_and_their_chunks_with_them(house: House) -> None:
    """The collector ran between the question and the recipe."""
    client = await RecipeClient.begun(house.server)
    cut, bases = Cut.of(AGAIN), await client.bases(REBUILT.name)
    body = cut.body(await client.missing(cut.recipe.chunks(), bases))
    await let_go(house, PATH)
    answer = await client.send(AGAIN.claim.path_info.nar_hash, body, bases)
    assert await client.publish(AGAIN, answer) == "published"
    assert nar_of((await download(house, AGAIN)).body) == nar_of(AGAIN.data)


async def test_chunks_that_went_with_their_session_are_missed(house: House) -> None:
    """A client that slept for two days sends the NAR whole."""
    client = await RecipeClient.begun(house.server)
    cut, bases = Cut.of(AGAIN), await client.bases(REBUILT.name)
    body = cut.body(await client.missing(cut.recipe.chunks(), bases))
    house.clock.ahead = 2 * SESSION_SECONDS
    await let_go(house, PATH)
    assert (await client.send(AGAIN.claim.path_info.nar_hash, body, bases)).status == 410
    other = await RecipeClient.begun(house.server)
    answer = await other.send(AGAIN.claim.path_info.nar_hash, body, bases)
    assert (answer.status, b"send the NAR whole" in answer.body) == (409, True)
    assert await status(house, REBUILT) == 404


async def let_go(house: House, path: StorePath) -> None:
    """Have everything collected that nothing keeps, long after its last use."""
    catalog, ahead = house.server.catalog, house.clock.ahead
    await catalog.caches.change(TEAM, {"keep_unused": 0, "grace": 0})
    for _ in range(4):
        ahead += 2 * GRACE_SECONDS
        await house.look(ahead)
        await house.server.node.chunking.pack_collector().run()


async def test_a_chunk_that_is_lost_is_missed(house: House) -> None:
    client = await RecipeClient.begun(house.server)
    cut, bases = Cut.of(AGAIN), await client.bases(REBUILT.name)
    missing = await client.missing(cut.recipe.chunks(), bases)
    body = cut.body(missing)
    lost = next(chunk for chunk in cut.recipe.chunks() if chunk not in missing)
    await house.server.catalog.chunks.lose(lost, with_pack=False, now=house.server.node.now())
    answer = await client.send(AGAIN.claim.path_info.nar_hash, body, bases)
    assert (answer.status, b"send the NAR whole" in answer.body) == (409, True)
    assert await status(house, REBUILT) == 404


async def test_a_chunk_that_has_rotted_makes_no_nar(house: House) -> None:
    """What is made is hashed whole: a rotten frame, which is sent as it is kept, is found here."""
    client = await RecipeClient.begun(house.server)
    cut, bases = Cut.of(AGAIN), await client.bases(REBUILT.name)
    body = cut.body(await client.missing(cut.recipe.chunks(), bases))
    await rot(house)
    answer = await client.send(AGAIN.claim.path_info.nar_hash, body, bases)
    assert answer.status in (409, 422)
    assert b"whole" in answer.body
    assert await status(house, REBUILT) == 404
    assert await status(house, PATH) == 200, "a client hides nothing by a recipe"


async def rot(house: House) -> None:
    """Change a byte in the middle of the pack."""
    blobs = house.server.node.blobs
    (key,) = [info.key async for info in blobs.list() if info.key.startswith(PACKS)]
    blob = await blobs.open(key)
    assert blob is not None
    with blob:
        data = bytearray(await asyncio.to_thread(bytes_of, blob, 0, blob.size))
    data[len(data) // 2] ^= 1
    await blobs.put(key, bytes(data), {})


async def test_what_takes_long_is_asked_for_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy gives up after a minute: the answer comes before, and the client asks for the file."""
    monkeypatch.setattr(checking, "_ANSWER_SECONDS", 0.0)
    client = await RecipeClient.begun(house.server)
    cut, bases, nar_hash = Cut.of(AGAIN), await client.bases(REBUILT.name), AGAIN.claim.path_info.nar_hash
    body = cut.body(await client.missing(cut.recipe.chunks(), bases))
    answer = await client.send(nar_hash, body, bases)
    assert json.loads(answer.body) == {"state": "making"}
    monkeypatch.undo()
    answer = await client.ask("GET", f"recipes/{nar_hash.nix32}")
    assert await client.publish(AGAIN, answer) == "published"


async def test_why_a_file_was_not_made_is_told_although_that_was_over_before_the_client_asked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told that the file is being made, for two minutes; also when a cache had been changed meanwhile."""
    monkeypatch.setattr(checking, "_ANSWER_SECONDS", 0.0)
    client = await RecipeClient.begun(house.server)
    cut, nar_hash = Cut.of(AGAIN), AGAIN.claim.path_info.nar_hash
    answer = await client.send(nar_hash, cut.body([]), [])
    assert json.loads(answer.body) == {"state": "making"}
    await eventually(lambda: not house.server.node.caches.making._held)
    await house.server.catalog.caches.change(OTHER_CACHE, {"priority": 1})
    answer = await client.ask("GET", f"recipes/{nar_hash.nix32}")
    assert answer.status == 409


async def test_why_a_file_was_not_made_is_known_to_every_worker(house: House, tmp_path: Path) -> None:
    """Another worker than the one that had failed said for two minutes that the file is being made."""
    client = await RecipeClient.begun(house.server)
    cut, nar_hash, server = Cut.of(AGAIN), AGAIN.claim.path_info.nar_hash, house.server
    refused = await client.send(nar_hash, cut.body([]), [])
    assert refused.status == 409
    async with PushNode(tmp_path / "other", server.catalog, STORE, server.metrics, clock=house.clock) as other:
        pushes = other.caches.pushes_of(other.caches.cache_of(await team(house)))
        assert pushes is not None
        assert pushes.recipes is not None
        session = await pushes.sessions.resume(Principal("token pusher"), client.session)
        with pytest.raises(PushConflict) as told:
            await pushes.recipes.made(session, nar_hash)
        assert str(told.value) in refused.body.decode()
        assert await pushes.recipes.made(session, CHANGED.claim.path_info.nar_hash) is None


async def test_a_catalog_that_fails_is_no_fault_of_a_chunk(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client was told that a chunk is lost, and why the disk of the catalog failed."""
    client = await RecipeClient.begun(house.server)
    cut, bases = Cut.of(AGAIN), await client.bases(REBUILT.name)
    body = cut.body(await client.missing(cut.recipe.chunks(), bases))

    async def fail(*_: object, **__: object) -> None:
        raise StorageError("disk I/O error")

    monkeypatch.setattr(SqlUploads, "received", fail)
    answer = await client.send(AGAIN.claim.path_info.nar_hash, body, bases)
    assert (answer.status, b"disk" in answer.body) == (503, False)


@pytest.mark.parametrize(
    ("settings", "token"), [(CHUNKS, "writer"), (CacheSettings(), "pusher"), (CacheSettings(public=True), "writer")]
)
async def test_who_may_not_read_and_caches_without_chunks_are_not_told_of_any(
    tmp_path: Path, settings: CacheSettings, token: str
) -> None:
    async with pushed_to(tmp_path, STORE, settings) as server:
        client = await RecipeClient.begun(server, token)
        assert client.terms is None
        requests = {
            "chunks/bases": b'{"names": []}',
            "chunks/missing": b'{"chunks": [], "bases": []}',
            f"recipes/{AGAIN.claim.path_info.nar_hash.nix32}?sent=0": b"recipe",
        }
        answers = [(await client.ask("POST", place, body)).status for place, body in requests.items()]
        assert answers == [403 if settings == CHUNKS else 422] * 3


async def test_the_terms_say_how_the_cache_cuts(house: House) -> None:
    client = await RecipeClient.begun(house.server)
    terms = ChunkTerms.of(client.terms)
    assert terms is not None
    assert terms.sizes == SIZES
    assert ChunkTerms.of(client.terms | {"cut": "another way"}) is None
    assert ChunkTerms.of(client.terms | {"sizes": client.terms["sizes"] | {"least": 1}}) is None
    assert ChunkTerms.of(None) is None
