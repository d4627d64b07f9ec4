"""What was pushed, made into chunks: downloaded right by clients that know nothing of it."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from chunking import HELLO, LIBRARY, OTHER, make_chunks, nar_of, program
from house import Clock, House, blob, download, static, team
from lab import Lab
from msgspec.structs import replace
from pushed_paths import PATH, REFERENCE, STORE, Pushed, pushed
from pushing import pushed_to
from trees import File

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.catalog.audit import entry_now
from harmonia_py.catalog.key_encryption import new_row
from harmonia_py.catalog.nars import RECIPES
from harmonia_py.chunks import sending, windows
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.claims import PushedFile
from harmonia_py.wiring.cache_keys import CacheKeys
from harmonia_py.wiring.collecting import static_renewal


async def narinfo_of(house: House, path: StorePath) -> NarInfo:
    answer = await house.server.get(f"/{path.hash_part}.narinfo")
    assert answer.status == 200
    return NarInfo.parse(answer.body, STORE)


async def test_a_nar_in_chunks_is_a_download_like_any_other(house: House) -> None:
    await house.published(LIBRARY, HELLO)
    before = await download(house, HELLO)
    done = await make_chunks(house)
    assert done.files == 2
    info = await narinfo_of(house, PATH)
    answer = await download(house, HELLO)
    assert answer.status == 200
    assert nar_of(answer.body) == nar_of(before.body)
    assert (len(answer.body), info.compression) == (info.file_size, "zstd")
    assert info.file_hash is not None
    assert str(info.file_hash.nix32) in answer.headers["etag"] != before.headers["etag"]
    assert int(answer.headers["content-length"]) == len(answer.body)
    plain = await house.server.get(f"/{NarUrl(PATH.hash_part, HELLO.claim.path_info.nar_hash, 'none')}")
    assert plain.body == nar_of(before.body)


async def test_what_is_kept_as_chunks_is_no_file_any_more_for_this_server_or_for_others(house: House) -> None:
    await house.published(LIBRARY, HELLO)
    assert static(PATH) in house.files()
    await make_chunks(house)
    await house.look(7 * 86_400)
    kept = house.files()
    assert not {file for file in kept if file.startswith("nar/") or file.endswith((".narinfo", ".ls"))}
    assert {file.partition("/")[0] for file in kept} == {"packs", "recipes", "team"}
    assert nar_of((await download(house, HELLO)).body)


async def test_a_file_as_this_server_makes_it_of_chunks_has_no_narinfo_beside_it_once_it_is_in_chunks(
    house: House, tmp_path: Path
) -> None:
    """What `export` had written, and was pushed again, kept a narinfo for plain readers that led to no file.

    Its recipe has the name of the file, whose bytes were still there when the narinfo was written anew.
    """
    (tmp_path / "first").mkdir()
    async with pushed_to(tmp_path / "first", STORE) as server:
        first = House(server, Clock())
        await first.published(LIBRARY, HELLO)
        assert (await make_chunks(first)).files == 2
        again = [Pushed(*await as_sent(first, what)) for what in (LIBRARY, HELLO)]
    await house.published(*again)
    assert (await make_chunks(house)).files == 2
    await house.look(7 * 86_400)
    kept = house.files()
    assert {f"team/chunked/{path.hash_part}" for path in (PATH, REFERENCE)} <= kept
    assert not {static(PATH), static(REFERENCE), *map(blob, again)} & kept


async def as_sent(house: House, what: Pushed) -> tuple[bytes, NarInfo]:
    """A file as the server sends it, with a narinfo that says so."""
    data = (await download(house, what)).body
    file = PushedFile(Hash.of(data), "zstd")
    return data, replace(what.claim, url=f"nar/{file}", file_hash=file.file_hash, file_size=len(data))


async def test_after_a_rotation_the_narinfos_of_chunks_are_signed_by_the_keys_of_now(house: House) -> None:
    """They kept the signatures of the keys before, and one that an earlier release had not written was never there."""
    catalog, node = house.server.catalog, house.server.node
    await add_key(house, "first-1")
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    await house.look(7 * 86_400)
    kept, lost = (house.server.directory / "team" / "chunked" / path.hash_part for path in (PATH, REFERENCE))
    assert b"Sig: first-1:" in kept.read_bytes()
    await add_key(house, "second-1")
    lost.unlink()
    await static_renewal(node, CacheKeys(catalog.keys)).look()
    for narinfo in (kept, lost):
        assert b"Sig: second-1:" in narinfo.read_bytes()
        assert b"Sig: first-1:" not in narinfo.read_bytes()


async def add_key(house: House, name: str) -> None:
    """Let another key sign what the cache serves, in the place of those before."""
    now = house.server.node.now()
    added = new_row(await team(house), SecretKey.generate(name), None, now=now)
    await house.server.catalog.keys.add(added, entry_now("tests", "key.rotate"), retire_others=now)


async def test_a_cache_whose_first_path_is_in_chunks_is_not_written_anew_at_each_start(house: House) -> None:
    """What is in chunks has no narinfo beside it, which was taken for one that other keys have signed."""
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    await house.look(7 * 86_400)
    await house.published(pushed(OTHER, program(OTHER), REFERENCE, compression="zstd"))
    first = min(REFERENCE, PATH, OTHER, key=lambda path: path.hash_part)
    assert first != OTHER
    catalog, node = house.server.catalog, house.server.node
    narinfo = house.server.directory / static(OTHER)
    before = narinfo.stat()
    await static_renewal(node, CacheKeys(catalog.keys)).look()
    after = narinfo.stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


async def test_a_second_build_that_differs_in_hash_parts_alone_takes_next_to_nothing(house: House) -> None:
    await house.published(LIBRARY, HELLO)
    first = await make_chunks(house)
    again = pushed(OTHER, program(OTHER), REFERENCE, compression="zstd")
    await house.published(again)
    second = await make_chunks(house)
    assert second.files == 1
    assert second.new_bytes == 0 < first.new_bytes
    assert OTHER.encode() in nar_of((await download(house, again)).body)


async def test_a_file_of_another_compression_stays_as_it_is(house: House) -> None:
    """Its URL says how it is compressed, and clients remember a URL for 30 days."""
    await house.published(LIBRARY, pushed(PATH, program(PATH), REFERENCE, compression="xz"))
    assert (await make_chunks(house)).files == 1
    assert (await narinfo_of(house, PATH)).compression == "xz"


async def test_what_came_as_it_is_can_be_had_so_and_as_zstd(house: House) -> None:
    plain = pushed(PATH, program(PATH), REFERENCE)
    await house.published(LIBRARY, plain)
    await make_chunks(house)
    assert (await narinfo_of(house, PATH)).compression == "zstd"
    assert (await download(house, plain)).body == plain.data


@pytest.mark.parametrize("compression", ["zstd", "none"])
async def test_any_range_is_the_part_of_the_whole(house: House, compression: str) -> None:
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    url = f"/team/{NarUrl(PATH.hash_part, HELLO.claim.path_info.nar_hash, compression)}"
    whole = (await house.server.request("GET", url)).body
    source = random.Random(4)
    for _ in range(40):
        first = source.randrange(len(whole))
        last = min(len(whole) - 1, first + source.choice([0, 1, 500, 100_000, 2**30]))
        answer = await house.server.request("GET", url, headers={"Range": f"bytes={first}-{last}"})
        assert answer.status == 206
        assert answer.body == whole[first : last + 1]


@pytest.mark.parametrize("compression", ["zstd", "none"])
async def test_a_long_nar_whose_places_are_looked_up_in_several_parts_is_right(
    house: House, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """Between two looks at the catalog a segment was left out: the NAR failed its check, and stayed a file."""
    monkeypatch.setattr(windows, "_MOST_SEGMENTS", 5)
    long = pushed(PATH, program(PATH, 3_000_000), REFERENCE, compression="zstd")
    await house.published(LIBRARY, long)
    assert (await make_chunks(house)).files == 2
    answer = await house.server.get(f"/{NarUrl(PATH.hash_part, long.claim.path_info.nar_hash, compression)}")
    assert (nar_of(answer.body) if compression == "zstd" else answer.body) == nar_of(long.data)
    assert len(answer.body) > 100_000


async def recipe_key(house: House, path: StorePath) -> str:
    info = await narinfo_of(house, path)
    assert info.file_hash is not None
    return f"{RECIPES}{info.file_hash.nix32}"


async def test_what_references_stand_in_is_sent_little_by_little(house: House) -> None:
    """What a window makes was gathered before the first byte of it was sent: up to 128 MiB for one download."""
    source = random.Random(5)
    lines = (source.randbytes(3000) + f"/nix/store/{REFERENCE}/lib".encode() for _ in range(1500))
    await house.published(LIBRARY, pushed(PATH, File(b"".join(lines)), REFERENCE, compression="zstd"))
    assert (await make_chunks(house)).files == 2
    found = await house.server.node.chunking.files.open(await recipe_key(house, PATH), "")
    assert found is not None
    with found:
        pieces = await asyncio.to_thread(_made, found.pieces(0, None))
    assert sum(map(len, pieces)) > 4_000_000
    assert max(map(len, pieces)) < 512 * 1024


def _made(pieces: Iterator[Piece]) -> list[bytes]:
    made = []
    for piece in pieces:
        if isinstance(piece, Pause):
            piece.wait_in_thread()
        elif isinstance(piece, bytes):
            made.append(piece)
    return made


async def test_a_catalog_that_does_not_answer_ends_what_a_thread_reads(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread raised `TimeoutError`, which ended jobs for good, and what it had asked for went on without it."""
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    monkeypatch.setattr(sending, "_WAIT_SECONDS", 0.05)
    answers = asyncio.Event()

    async def places(_: object) -> dict[object, object]:
        await answers.wait()
        return {}

    key, files = await recipe_key(house, PATH), house.server.node.chunking.files
    monkeypatch.setattr(house.server.catalog.chunks, "places", places)
    found = await files.open(key, "")
    assert found is not None
    before = asyncio.all_tasks()
    with found:
        pause = next(found.pieces(0, None))
        assert isinstance(pause, Pause)
        with pytest.raises(StorageError):
            await asyncio.to_thread(pause.wait_in_thread)
        for _ in range(20):
            await asyncio.sleep(0)  # what was cancelled ends
        # What looks for the places is shared by the reader of the next part, and ends when the catalog answers.
        assert len(asyncio.all_tasks() - before) <= 1
    answers.set()


async def test_stock_nix_substitutes_what_is_kept_as_chunks(tmp_path: Path, lab: Lab) -> None:
    async with pushed_to(tmp_path, lab.store_dir) as server:
        house = House(server, Clock())
        await server.copy(lab, lab.closure.top, compression="zstd")
        assert (await make_chunks(house)).files > 0
        await house.look(7 * 86_400)
        assert not list((server.directory / "nar").glob("*.nar.zst"))
        client = await server.substitute(lab, "client", lab.closure.top)
        await asyncio.to_thread(client.nix_store, "--verify-path", lab.full(lab.closure.top))
