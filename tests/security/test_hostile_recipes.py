"""Each attack by a recipe, by name: refused, with nothing visible, nothing hidden and nothing left.

A recipe makes the server put together bytes that its sender did not send. So it may lead to none that the sender could
not have otherwise, and to no more work than sending the NAR would have made.
"""

import hashlib
import struct
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from chunking import HELLO, LIBRARY, make_chunks, program
from house import Clock, House, status
from pushed_paths import PATH, REFERENCE, STORE, Pushed, pushed
from pushing import OTHER, PushServer, pushed_to
from recipe_client import Body, Cut, RecipeClient
from serving import Answer
from waiting import eventually
from zstd_library import zstd

from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.chunks.frames import compress_chunk
from harmonia_py.chunks.recipe import ChunkHash, Recipe
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push import checking

CHUNKS: Final = CacheSettings(deduplicate="chunks")
REBUILT: Final = StorePath("5rz1m1y0wlkzfs1b6pa0rr4x5kbbcl9q-hello-2.12.1")
AGAIN: Final = pushed(REBUILT, program(REBUILT), REFERENCE, compression="zstd")
NAR_HASH: Final = AGAIN.claim.path_info.nar_hash
DATA: Final = bytes(range(256)) * 256
CHUNK: Final = ChunkHash(hashlib.sha256(DATA).digest())
FRAME: Final = compress_chunk(DATA, 3)


@dataclass
class Forged:
    """A recipe of any columns, whether they fit each other or not; see `Recipe.format`."""

    sizes: Sequence[int] = ()
    frames: Sequence[int] = ()
    chunks: Sequence[bytes] = ()
    literals: bytes = b""
    references: Sequence[HashPart] = ()
    places: Sequence[int] = ()
    numbers: Sequence[int] = ()
    nar_hash: Hash = NAR_HASH
    head: dict[str, int] = field(default_factory=dict)

    def format(self) -> bytes:
        body = b"".join(
            [
                *map(base32.decode, self.references),
                *(array("I", column).tobytes() for column in (self.sizes, self.frames)),
                *self.chunks,
                self.literals,
                array("Q", self.places).tobytes(),
                array("H", self.numbers).tobytes(),
            ]
        )
        head = {
            "nar_size": sum(self.sizes),
            "references": len(self.references),
            "segments": len(self.sizes),
            "chunks": len(self.chunks),
            "literals": len(self.literals),
            "places": len(self.places),
            "size": len(body),
        } | self.head
        return b"hpy-rcp1" + struct.pack("<32sQIIIIIQ", self.nar_hash.digest, *head.values()) + compress_chunk(body, 3)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with pushed_to(tmp_path, STORE, CHUNKS) as server:
        house = House(server, Clock())
        await house.published(LIBRARY, HELLO)
        assert (await make_chunks(house)).files == 2
        yield house


def begun(house: House) -> list[str]:
    """The files that are on their way in."""
    return [str(path) for path in house.server.node._directory.rglob("growing/*")]


async def refused(house: House, answer: Answer, status_wanted: int, *words: str) -> None:
    assert answer.status == status_wanted, answer.body
    assert answer.body.count(b"\n") == 1
    for word in words:
        assert word in answer.body.decode()
    assert begun(house) == []
    assert await status(house, PATH) == 200, "what is there is not hidden by a recipe"
    assert await status(house, REBUILT) == 404


async def sent(house: House, recipe: Forged | bytes, chunks: bytes = b"", bases: Sequence[str] = ()) -> Answer:
    client = await RecipeClient.begun(house.server)
    data = recipe if isinstance(recipe, bytes) else recipe.format()
    return await client.send(NAR_HASH, Body(chunks, data), bases)


# What other caches have


async def test_chunks_of_another_cache_are_neither_told_of_nor_used(tmp_path: Path) -> None:
    """By the hash of a chunk a client could have learnt which files other teams have, and had them put together.

    Each answer is the one that a server gives where no cache has the chunks, to the byte.
    """
    answers = []
    for has_it in (True, False):
        (tmp_path / str(has_it)).mkdir()
        async with pushed_to(tmp_path / str(has_it), STORE, CHUNKS) as server:
            house = House(server, Clock())
            await server.catalog.caches.change(OTHER, {"deduplicate": "chunks"})
            if has_it:
                await in_the_other_cache(house, LIBRARY, HELLO)
            answers.append(await asked(server))
    assert answers[0] == answers[1]


async def in_the_other_cache(house: House, *what: Pushed) -> None:
    for one in what:
        for place, body in ((one.place, one.data), (f"/{one.path.hash_part}.narinfo", one.narinfo)):
            answer = await house.server.request("PUT", f"/other/push{place}", body, token="stranger")
            assert answer.status == 200
    row = await house.server.catalog.caches.find(OTHER)
    assert row is not None
    assert (await make_chunks(house, OTHER)).files == len(what)
    mine = await RecipeClient.begun(house.server, "stranger", "other")
    assert await mine.bases(HELLO.path.name) == [PATH.hash_part], "who may read it is told"


async def asked(server: PushServer) -> list[tuple[int, bytes]]:
    """What a client of one cache is told of a file that another cache may have."""
    client, cut = await RecipeClient.begun(server), Cut.of(HELLO)
    chunks, guess = list(cut.recipe.chunks()), [PATH.hash_part]
    assert await client.bases(HELLO.path.name) == []
    assert await client.missing(chunks, guess) == chunks
    answer = await client.send(HELLO.claim.path_info.nar_hash, cut.body([]), guess)
    assert answer.status == 409
    half = cut.body(chunks[: len(chunks) // 2])
    other = await client.send(HELLO.claim.path_info.nar_hash, half, guess)
    made = await client.ask("GET", f"recipes/{HELLO.claim.path_info.nar_hash.nix32}")
    return [(one.status, one.body) for one in (answer, other, made)]


# Chunks


@pytest.mark.parametrize(
    "frame", [FRAME[:-1] + b"x", FRAME[:-4], FRAME + FRAME, b"x" * len(FRAME), compress_chunk(b"y", 3)]
)
async def test_a_chunk_that_is_not_what_its_hash_says(house: House, frame: bytes) -> None:
    await refused(house, await sent(house, Forged([len(DATA)], [len(frame)], [CHUNK]), frame), 400, "chunk")


async def test_a_chunk_of_the_right_length_that_is_another_one(house: House) -> None:
    frame = compress_chunk(DATA[::-1], 3)
    answer = await sent(house, Forged([len(DATA)], [len(frame)], [CHUNK]), frame)
    await refused(house, answer, 400, "another hash")


async def test_a_frame_that_unpacks_to_a_gibibyte(house: House) -> None:
    frame = zstd.compress(bytes(2**30), 1)
    assert len(frame) < 2**20
    await refused(house, await sent(house, Forged([len(DATA)], [len(frame)], [CHUNK]), frame), 400, "chunk")


async def test_a_frame_that_is_long_for_nothing(house: House) -> None:
    """Empty blocks are bytes that no hash of the content sees: they would be kept, and sent to every reader."""
    frame = FRAME + bytes(3 * len(DATA))
    await refused(house, await sent(house, Forged([len(DATA)], [len(frame)], [CHUNK]), frame), 400, "longer")


@pytest.mark.parametrize("size", [2**24 + 1, 2**32 - 1])
async def test_a_chunk_that_is_longer_than_any(house: House, size: int) -> None:
    await refused(house, await sent(house, Forged([size], [len(FRAME)], [CHUNK]), FRAME), 400, "longer")


async def test_a_chunk_that_is_here_said_to_be_longer_or_shorter(house: House) -> None:
    """It would have counted as lost, and hidden every path that has it."""
    cut = Cut.of(HELLO)
    chunk, size = next(iter(cut.recipe.chunk_sizes().items()))
    for wrong in (size - 1, size + 1):
        answer = await sent(house, Forged([wrong], [1], [chunk]), bases=[PATH.hash_part])
        await refused(house, answer, 400, "another length")
    answer = await sent(house, Forged([size, size + 1], [1, 1], [chunk, chunk]), bases=[PATH.hash_part])
    await refused(house, answer, 400, "two lengths")


async def test_more_or_fewer_bytes_of_chunks_than_the_recipe_says(house: House) -> None:
    recipe = Forged([len(DATA)], [len(FRAME)], [CHUNK])
    await refused(house, await sent(house, recipe, FRAME + b"x"), 409, "whole")
    await refused(house, await sent(house, recipe), 409, "whole")


# Bombs


async def test_a_recipe_for_more_than_the_largest_nar(house: House) -> None:
    count = 5000
    recipe = Forged([2**24] * count, [len(FRAME)] * count, [CHUNK] * count)
    await refused(house, await sent(house, recipe, FRAME), 413, "NAR")


async def test_a_recipe_for_more_than_the_cache_takes(tmp_path: Path) -> None:
    settings = CacheSettings(deduplicate="chunks", max_nar_size=100_000)
    async with pushed_to(tmp_path, STORE, settings) as server:
        client = await RecipeClient.begun(server)
        recipe = Forged([len(DATA)] * 2, [len(FRAME)] * 2, [CHUNK] * 2).format()
        answer = await client.send(NAR_HASH, Body(FRAME, recipe), [])
        assert (answer.status, b"100000" in answer.body) == (413, True)


async def test_a_recipe_for_more_than_there_is_room(tmp_path: Path) -> None:
    settings = CacheSettings(deduplicate="chunks", max_size=50_000)
    async with pushed_to(tmp_path, STORE, settings) as server:
        client, data = await RecipeClient.begun(server), bytes(hashlib.shake_256(b"x").digest(40_000))
        chunk, frame = ChunkHash(hashlib.sha256(data).digest()), compress_chunk(data, 3)
        recipe = Forged([len(data)] * 2, [len(frame)] * 2, [chunk] * 2).format()
        answer = await client.send(NAR_HASH, Body(frame, recipe), [])
        assert (answer.status, b"room" in answer.body) == (413, True)


async def test_a_chunk_that_is_repeated_a_million_times(house: House) -> None:
    """One chunk and a short text would have filled the disk."""
    data = hashlib.shake_256(b"x").digest(60_000)
    chunk, frame = ChunkHash(hashlib.sha256(data).digest()), compress_chunk(data, 3)
    for count, wanted in ((150_000, 422), (1_000_000, 400)):
        recipe = Forged([len(data)] * count, [len(frame)] * count, [chunk] * count)
        await refused(house, await sent(house, recipe, frame), wanted)


async def test_a_recipe_that_says_it_has_a_gibibyte_of_columns(house: House) -> None:
    for head in ({"size": 2**30, "literals": 2**30}, {"segments": 2**32 - 1}, {"chunks": 2**32 - 1}, {"size": 2**63}):
        await refused(house, await sent(house, Forged(head=head)), 400)


async def test_columns_that_unpack_to_more_than_they_say(house: House) -> None:
    honest = Forged().format()
    bomb = honest[: 8 + struct.calcsize("<32sQIIIIIQ")] + zstd.compress(bytes(2**30), 1)
    await refused(house, await sent(house, bomb), 400)


async def test_a_recipe_that_is_longer_than_any(house: House) -> None:
    await refused(house, await sent(house, bytes(9 * 2**20)), 413)


async def test_a_recipe_for_an_hour_of_zeros(house: House) -> None:
    """Some hundred bytes of chunks unpacked for a minute of a core, however many recipes there were."""
    data = bytes(2**24)
    chunk, frame = ChunkHash(hashlib.sha256(data).digest()), zstd.compress(data)
    recipe = Forged([len(data)] * 4000, [len(frame)] * 4000, [chunk] * 4000)
    await refused(house, await sent(house, recipe, frame), 422, "many times")


async def test_a_short_text_that_has_a_million_segments(house: House) -> None:
    await refused(house, await sent(house, Forged([1] * 200_001, [0] * 200_001, literals=bytes(200_001))), 400)


def test_references_that_each_segment_would_look_through() -> None:
    """All references of a recipe were encoded for each of its segments: 100 KB of text took an hour of a core."""
    count, references = 10_000, [HashPart(base32.encode(number.to_bytes(20, "little"))) for number in range(2**16)]
    sizes = array("I", [32] * count)
    places, numbers = array("Q", range(0, 32 * count, 32)), array("H", range(count))
    recipe = Recipe(
        NAR_HASH, references, sizes=sizes, frame_sizes=array("I", [0] * count), hashes=b"",
        literals=bytes(32 * count), places=places, numbers=numbers,
    )  # fmt: skip
    began = time.process_time()
    nar = b"".join(recipe.restored(segment, recipe.literal(segment)) for segment in range(count))
    assert nar == "".join(references[:count]).encode()
    assert time.process_time() - began < 2


async def test_more_recipes_than_are_made(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each went on behind its answer, and all of them at once: pushes of other clients got no answer."""
    monkeypatch.setattr(checking, "_ANSWER_SECONDS", 0.0)
    client, making = await RecipeClient.begun(house.server), house.server.node.caches.making
    async with making.turn, making.turn:
        hashes = [Hash.of(str(number).encode()) for number in range(17)]
        answers = [await client.send(one, Body(b"", Forged().format()), []) for one in hashes]
        assert [answer.status for answer in answers] == [200] * 16 + [503]
    await eventually(lambda: not making._held)
    assert (await client.send(hashes[0], Body(b"", Forged().format()), [])).status in (200, 400)
    await eventually(lambda: not making._held)
    assert begun(house) == []


# Recipes


@pytest.mark.parametrize(
    "wrong",
    [
        {"places": [len(DATA) - 31], "numbers": [0]},
        {"places": [2**63], "numbers": [0]},
        {"places": [0, 31], "numbers": [0, 0]},
        {"places": [40, 0], "numbers": [0, 0]},
        {"places": [0], "numbers": [1]},
        {"places": [0], "numbers": []},
        {"sizes": [0]},
        {"sizes": [len(DATA), 5]},
        {"literals": b"x"},
        {"chunks": []},
        {"head": {"nar_size": 1}},
    ],
    ids=str,
)
async def test_columns_that_do_not_fit_each_other(house: House, wrong: dict[str, object]) -> None:
    columns = {"sizes": [len(DATA)], "frames": [len(FRAME)], "chunks": [CHUNK], "references": [REFERENCE.hash_part]}
    await refused(house, await sent(house, Forged(**columns | wrong), FRAME), 400)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"", b"hpy-rcp1", b"hpy-rcp2" + bytes(100), Forged().format()[:-3]])
async def test_what_is_no_recipe(house: House, data: bytes) -> None:
    await refused(house, await sent(house, data), 400)


async def test_a_recipe_that_makes_another_nar_than_it_says(house: House) -> None:
    """What it makes is hashed whole: no file has a NarHash that was only claimed."""
    cut = Cut.of(HELLO)
    recipe = bytearray(cut.body([]).recipe)
    recipe[8:40] = NAR_HASH.digest
    await refused(house, await sent(house, bytes(recipe), bases=[PATH.hash_part]), 422, "another NarHash")
    await refused(house, await sent(house, cut.body([]).recipe, bases=[PATH.hash_part]), 400, "URL")


@pytest.mark.parametrize("archive", [b"no archive" * 100, bytes(100)])
async def test_a_recipe_that_makes_no_nar(house: House, archive: bytes) -> None:
    answer = await sent(house, Forged([len(archive)], [0], literals=archive, nar_hash=NAR_HASH))
    await refused(house, answer, 422, "whole")


async def test_a_recipe_that_makes_nothing(house: House) -> None:
    await refused(house, await sent(house, Forged()), 422, "whole")


# Questions


@pytest.mark.parametrize(
    ("place", "body"),
    [
        ("chunks/bases", b'{"names": ["../x"]}'),
        ("chunks/bases", b'{"names": ["a/b"]}'),
        ("chunks/bases", b'{"names": [1]}'),
        ("chunks/bases", b"{}"),
        ("chunks/missing", b'{"chunks": ["zz"], "bases": []}'),
        ("chunks/missing", b'{"chunks": ["00"], "bases": []}'),
        ("chunks/missing", b'{"chunks": [], "bases": ["../../etc"]}'),
        ("chunks/missing", b"[]"),
    ],
)
async def test_questions_that_make_no_sense(house: House, place: str, body: bytes) -> None:
    client = await RecipeClient.begun(house.server)
    assert (await client.ask("POST", place, body)).status == 400


async def test_questions_without_an_end(house: House) -> None:
    client = await RecipeClient.begun(house.server)
    name = '"x"'
    chunk, part = '"' + "0" * 64 + '"', f'"{PATH.hash_part}"'
    bodies = {
        "chunks/bases": f'{{"names": [{",".join([name] * 101)}]}}',
        "chunks/missing": f'{{"chunks": [{",".join([chunk] * 10_001)}], "bases": []}}',
    }
    for place, body in bodies.items():
        assert (await client.ask("POST", place, body.encode())).status == 422
    nine = f'{{"chunks": [], "bases": [{",".join([part] * 9)}]}}'.encode()
    assert (await client.ask("POST", "chunks/missing", nine)).status == 422
    assert (await client.ask("POST", "chunks/missing", b" " * (2**20 + 1))).status == 413


@pytest.mark.parametrize("query", ["", "?sent=-1", "?sent=x", "?sent=1e3", "?sent=0&base=../x", "?sent=" + "9" * 19])
async def test_recipes_that_do_not_say_what_comes(house: House, query: str) -> None:
    client = await RecipeClient.begun(house.server)
    assert (await client.ask("POST", f"recipes/{NAR_HASH.nix32}{query}", b"x")).status == 400


async def test_more_chunks_than_come_with_a_recipe(house: House) -> None:
    client = await RecipeClient.begun(house.server)
    assert (await client.ask("POST", f"recipes/{NAR_HASH.nix32}?sent={2**26 + 1}", b"x")).status == 422
    for name in ("x", "..%2f..%2fetc", NAR_HASH.nix32[:-1]):
        assert (await client.ask("POST", f"recipes/{name}?sent=0", b"x")).status in (400, 404)
