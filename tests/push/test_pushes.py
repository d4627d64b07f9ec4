"""What becomes of pushes in any order, by any number of clients, whatever was there before."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import brotli
import pytest
from json_threads import note_threads
from msgspec.structs import replace
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, Pushed, push, pushed
from pushing import OTHER, PushServer, pushed_to
from trees import File, Folder

from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.database.nars import SqlNars
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.claims import MAX_SIGNATURES

DERIVATION = StorePath("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-glibc.drv")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PushServer]:
    async with pushed_to(tmp_path, STORE) as server:
        yield server


async def readable(server: PushServer, path: StorePath) -> bool:
    return (await server.get(f"/{path.hash_part}.narinfo")).status == 200


async def test_a_file_that_another_client_brought_in_vain_does_not_stop_a_third(server: PushServer) -> None:
    """Three clients pushed a path at once: 409 for the third, which relied on the file that the second had brought."""
    again = pushed(REFERENCE, Folder({b"lib": File(b"libc")}), compression="zstd")
    assert (await server.put(again.place, again.data, run="second")).status == 200
    assert (await server.get(f"/push/third{again.place}", token="pusher", method="HEAD")).status == 200
    assert (await push(server, GLIBC, run="first")).status == 200
    narinfo = f"/{REFERENCE.hash_part}.narinfo"
    assert (await server.put(narinfo, again.narinfo, run="second")).status == 200
    assert (await server.put(narinfo, again.narinfo, run="third")).status == 200
    assert "Compression: none\n" in (await server.get(narinfo)).body.decode()
    # What it claims is held against what is there.
    answer = await server.put(narinfo, again.claiming(nar_size=1).narinfo, run="third")
    assert (answer.status, answer.body[:7]) == (422, b"NarSize")


async def test_a_log_is_taken_once_an_earlier_one_has_been_deleted(
    server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client got 409 at once, where that of a file waits."""
    reserve, asked = SqlNars.reserve, asyncio.Event()

    async def reserve_and_note(self: SqlNars, blob_key: str) -> None:
        try:
            await reserve(self, blob_key)
        finally:
            asked.set()

    monkeypatch.setattr(SqlNars, "reserve", reserve_and_note)
    key, now = f"team/log/{DERIVATION}", server.node.now()
    await server.catalog.repairs.discard([key], garbage_from=now)
    assert await server.catalog.garbage.claim(1, now=now) == [key]
    pushing = asyncio.create_task(server.put(f"/log/{DERIVATION}", b"a log"))
    await asked.wait()
    await server.catalog.garbage.forget([key])
    assert (await pushing).status == 200


async def test_a_build_that_came_second_stops_no_third_client_that_has_the_same(server: PushServer) -> None:
    """Its file was dropped with the push of the second client, though the third was told that it is here: 409."""
    again = pushed(REFERENCE, Folder({b"lib": File(b"built again")}))
    assert (await push(server, GLIBC, run="first")).status == 200
    assert (await server.put(again.place, again.data, run="second")).status == 200
    assert (await server.get(f"/push/third{again.place}", token="pusher", method="HEAD")).status == 200
    narinfo = f"/{REFERENCE.hash_part}.narinfo"
    for run in ("second", "third"):
        assert (await server.put(narinfo, again.narinfo, run=run)).status == 200
    # Another path that has the same NAR, whose client asked for the file before the first was published.
    other = pushed(StorePath(f"{PATH.hash_part}-glibc"), Folder({b"lib": File(b"built again")}))
    assert (await server.put(f"/{PATH.hash_part}.narinfo", other.narinfo, run="third")).status == 200
    assert await readable(server, PATH)


async def test_a_static_narinfo_that_cannot_be_written_ends_no_writing_of_others(
    server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that was no `HarmoniaError` ended the one task that writes; once the queue was full, pushes hung."""
    blobs = type(server.node.blobs)
    put = blobs.put

    async def fail(self: BlobStore, key: BlobKey, *arguments: Any, **more: Any) -> None:
        if key == f"team/{REFERENCE.hash_part}.narinfo":
            raise RuntimeError("a mistake of this program")
        await put(self, key, *arguments, **more)

    monkeypatch.setattr(blobs, "put", fail)
    for one in (GLIBC, HELLO):
        assert (await push(server, one)).status == 200
        async with asyncio.timeout(30):
            await server.node.static_writer.written()
    assert await server.node.blobs.metadata(BlobKey(f"team/{PATH.hash_part}.narinfo")) is not None


async def test_a_path_waits_for_its_references(server: PushServer) -> None:
    """Clients that push in random order: nothing is refused, and no reader sees half a closure."""
    assert (await push(server, HELLO)).status == 200
    assert not await readable(server, PATH)
    assert (await server.get(HELLO.place)).status == 404
    assert (await push(server, GLIBC)).status == 200
    assert await readable(server, PATH)
    await server.node.static_writer.written()
    assert (server.directory / "team" / f"{PATH.hash_part}.narinfo").is_file()


async def test_what_waits_is_not_there_for_other_pushes_and_gives_way_to_what_can_be_published(
    server: PushServer,
) -> None:
    """A narinfo says that a path is valid. Who believed that of one that waits would not bring what it is missing."""
    await push(server, HELLO)
    assert (await server.get(f"/push/{PATH.hash_part}.narinfo", token="pusher")).status == 404
    assert (await server.get(f"/push{HELLO.place}", token="pusher", method="HEAD")).status == 200
    # Built once more, without the reference that never comes.
    other = pushed(PATH, Folder({b"bin": File(b"static")}))
    assert (await push(server, other, run="other")).status == 200
    assert await readable(server, PATH)
    narinfo = (await server.get(f"/{PATH.hash_part}.narinfo")).body.decode()
    assert f"NarHash: {other.claim.path_info.nar_hash}\n" in narinfo


@pytest.mark.parametrize("first", ["path", "realisation"])
async def test_what_nix_from_2_35_on_says_of_an_output_is_kept_and_shown_once_the_path_is(
    server: PushServer, first: str
) -> None:
    place = f"/build-trace-v2/{DERIVATION}/out.doi"
    key = SecretKey.generate("ci-1")
    bare = Realisation(id=DrvOutput.of(DERIVATION, "out"), out_path=REFERENCE)
    given = replace(bare, signatures=(key.sign(bare.fingerprint()),))

    async def put() -> None:
        assert (await server.get(f"/push{place}", token="pusher")).status == 404
        assert (await server.put(place, given.format_new())).status == 200

    if first == "realisation":
        await put()
        assert (await server.get(place)).status == 404
    await push(server, GLIBC)
    if first == "path":
        await put()
    assert Realisation.parse_new((await server.get(place)).body, bare.id) == given
    assert (await server.get(f"/push{place}", token="pusher", method="HEAD")).status == 200
    # The first path stays, and a signature is added to it.
    other = replace(bare, out_path=PATH)
    assert (await server.put(place, other.format_new())).status == 200
    more = replace(bare, signatures=(SecretKey.generate("ci-2").sign(bare.fingerprint()),))
    assert (await server.put(place, more.format_new())).status == 200
    found = Realisation.parse_new((await server.get(place)).body, bare.id)
    assert (found.out_path, {one.key_name for one in found.signatures}) == (REFERENCE, {"ci-1", "ci-2"})


async def test_a_document_that_no_reader_could_use_is_refused(server: PushServer) -> None:
    refused = await server.put(f"/log/{REFERENCE}", b"a log")
    assert (refused.status, refused.body) == (400, b"a log is that of a derivation\n")
    bare = Realisation(id=DrvOutput.of(DERIVATION, "out"), out_path=REFERENCE)
    keys = [SecretKey.generate(f"k-{number}") for number in range(MAX_SIGNATURES + 1)]
    signatures = tuple(key.sign(bare.fingerprint()) for key in keys)
    place = f"/build-trace-v2/{DERIVATION}/out.doi"
    refused = await server.put(place, replace(bare, signatures=signatures).format_new())
    assert (refused.status, b"has more than" in refused.body) == (400, True)
    await push(server, GLIBC)
    assert (await server.get(place)).status == 404
    # Sent twice it is what it was.
    most = replace(bare, signatures=signatures[1:])
    for _ in range(2):
        assert (await server.put(place, most.format_new())).status == 200
    found = Realisation.parse_new((await server.get(place)).body, bare.id)
    assert set(found.signatures) == set(most.signatures)


async def test_a_realisation_is_not_read_in_the_event_loop(server: PushServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a megabyte of brackets, during which nothing else was answered."""
    threads = note_threads(monkeypatch, REFERENCE)
    given = Realisation(id=DrvOutput.of(DERIVATION, "out"), out_path=REFERENCE)
    assert (await server.put(f"/build-trace-v2/{DERIVATION}/out.doi", given.format_new())).status == 200
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("place", "body", "status"),
    [
        ("/build-trace-v2/2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-glibc/out.doi", b"{}", 400),
        ("/build-trace-v2/2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-glibc.drv/out.doi", b"{}", 400),
        ("/build-trace-v2/2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-glibc.drv/o%20t.doi", b'{"outPath": "x"}', 400),
        ("/build-trace-v2/2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-glibc.drv/out", b"{}", 400),
    ],
)
async def test_what_is_no_output_of_a_derivation_is_refused(
    server: PushServer, place: str, body: bytes, status: int
) -> None:
    assert (await server.put(place, body)).status == status


def chain(length: int) -> list[Pushed]:
    """Paths of which each refers to the one before."""
    alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
    made: list[Pushed] = []
    for number in range(length):
        before = [made[-1].path] if made else []
        path = StorePath(f"{alphabet[number % 32] * 31}{alphabet[number // 32]}-n{number}")
        made.append(pushed(path, Folder({b"x": File(f"{number} {before}".encode())}), *before))
    return made


@pytest.mark.parametrize("seed", range(3))
async def test_the_same_is_published_in_whatever_order_it_comes(server: PushServer, seed: int) -> None:
    paths = chain(12)
    places = [(one.place, one.data) for one in paths]
    claims = [(f"/{one.path.hash_part}.narinfo", one.narinfo) for one in paths]
    Random(seed).shuffle(places)
    Random(seed).shuffle(claims)
    # NARs first, as Nix from 2.35 on does, by several clients at a time.
    for requests in (places, claims):
        answers = await asyncio.gather(*(server.put(*one, run=f"r{index % 3}") for index, one in enumerate(requests)))
        assert {answer.status for answer in answers} == {200}
    assert all([await readable(server, one.path) for one in paths])


async def test_everything_can_be_repeated(server: PushServer) -> None:
    for _ in range(3):
        assert (await push(server, GLIBC)).status == 200
        assert (await push(server, HELLO)).status == 200
    assert await readable(server, PATH)


async def test_signatures_of_the_pushing_side_are_kept_and_added_to(server: PushServer) -> None:
    info = GLIBC.claim.path_info
    signatures = [SecretKey.generate(name).sign(info.fingerprint(STORE)) for name in ("one", "two")]
    for signature in signatures:
        assert (await push(server, GLIBC.claiming(signatures=(signature,)))).status == 200
    text = (await server.get(f"/{REFERENCE.hash_part}.narinfo")).body.decode()
    assert [line for line in text.splitlines() if line.startswith("Sig")] == [f"Sig: {one}" for one in signatures]


async def test_a_push_url_tells_the_truth_about_what_is_pending(server: PushServer) -> None:
    place = f"/push{HELLO.place}"
    assert (await server.get(place, token="pusher", method="HEAD")).status == 404
    await server.put(HELLO.place, HELLO.data)
    head = await server.get(place, token="pusher", method="HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(HELLO.data)))
    assert (await server.get(place, token="pusher")).body == HELLO.data
    assert (await server.get(f"/push/{PATH.hash_part}.narinfo", token="pusher")).status == 404


async def test_files_that_two_caches_have_are_kept_once(server: PushServer) -> None:
    await push(server, GLIBC)
    for target, data in ((GLIBC.place, GLIBC.data), (f"/{REFERENCE.hash_part}.narinfo", GLIBC.narinfo)):
        answer = await server.request("PUT", f"/{OTHER}/push{target}", data, token="stranger")
        assert answer.status == 200
    assert len(list((server.directory / "nar").iterdir())) == 1
    answer = await server.request("GET", f"/{OTHER}/{REFERENCE.hash_part}.narinfo", token="stranger")
    assert answer.status == 200


@pytest.mark.parametrize(("coding", "encode"), [("br", brotli.compress), ("gzip", gzip.compress)])
async def test_a_narinfo_may_be_coded(server: PushServer, coding: str, encode: object) -> None:
    """`narinfo-compression`, for Nix from 2.32 on over HTTP."""
    assert callable(encode)
    await server.put(GLIBC.place, GLIBC.data)
    place, headers = f"/{REFERENCE.hash_part}.narinfo", {"Content-Encoding": coding}
    assert (await server.put(place, encode(GLIBC.narinfo)[:-3], headers)).status == 400
    bomb = encode(GLIBC.narinfo + b"X: " + bytes(10_000_000))
    assert (await server.put(place, bomb, headers)).status == 413
    assert (await server.put(place, encode(GLIBC.narinfo), headers)).status == 200
    assert await readable(server, REFERENCE)


async def test_a_log_may_be_coded_and_the_first_one_stays(server: PushServer) -> None:
    place = f"/log/{DERIVATION}"
    assert (await server.put(place, brotli.compress(b"line\n"), {"Content-Encoding": "br"})).status == 200
    assert (await server.put(place, b"another\n")).status == 200
    assert (await server.get(place)).status == 404
    await push(server, GLIBC.claiming(deriver=DERIVATION))
    assert (await server.get(place)).body == b"line\n"


async def test_a_log_whose_file_is_gone_is_taken_again(server: PushServer) -> None:
    """Readers got 404, and a client that pushed the log again was told that it is here, until `fsck --repair` ran."""
    place = f"/log/{DERIVATION}"
    assert (await server.put(place, b"building\n")).status == 200
    assert (await push(server, GLIBC.claiming(deriver=DERIVATION))).status == 200
    (server.directory / f"team{place}").unlink()
    assert (await server.get(place)).status == 404
    assert (await server.put(place, b"built again\n")).status == 200
    assert (await server.get(place)).body == b"built again\n"
    assert (await server.put(place, b"built once more\n")).status == 200
    assert (await server.get(place)).body == b"built again\n"


async def test_a_log_is_not_written_where_an_earlier_one_is_being_deleted(server: PushServer) -> None:
    """Its bytes went with those of the earlier one, and its row stayed."""
    place = f"/log/{DERIVATION}"
    garbage, repairs, now = server.catalog.garbage, server.catalog.repairs, server.node.now()
    await repairs.discard([f"team{place}"], garbage_from=now)
    assert await garbage.claim(1, now=now) == [f"team{place}"]
    answer = await server.put(place, b"building\n")
    assert (answer.status, b"run the same command again" in answer.body) == (409, True)
    await garbage.forget([f"team{place}"])
    assert (await server.put(place, b"building\n")).status == 200


async def test_a_cache_info_of_another_store_is_refused(server: PushServer) -> None:
    assert (await server.put("/nix-cache-info", b"StoreDir: /nix/store\n")).status == 200
    answer = await server.put("/nix-cache-info", b"StoreDir: /gnu/store\n")
    assert answer.status == 422
    assert answer.body == b"StoreDir: this cache is for /nix/store, not /gnu/store\n"


async def test_a_file_that_was_lost_is_asked_for_again(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE) as server:
        await push(server, GLIBC)
        narinfo = (await server.get(f"/{REFERENCE.hash_part}.narinfo")).body.decode()
    url = next(line.removeprefix("URL: ") for line in narinfo.splitlines() if line.startswith("URL"))
    for file in (server.directory / "nar").iterdir():
        file.unlink()
    async with pushed_to(tmp_path, STORE) as server:
        assert (await server.get(f"/{url}")).status == 404
        assert (await server.get(f"/push/{REFERENCE.hash_part}.narinfo", token="pusher")).status == 404
        assert (await server.get(f"/push{GLIBC.place}", token="pusher", method="HEAD")).status == 404
        assert (await push(server, GLIBC)).status == 200
        assert (await server.get(f"/{url}")).status == 200


async def test_a_cache_that_wants_signatures_says_which(tmp_path: Path) -> None:
    key = SecretKey.generate("team-1")
    async with pushed_to(tmp_path, STORE, CacheSettings(signed_by=(str(key.public_key),))) as server:
        answer = await push(server, GLIBC)
        assert answer.status == 422
        assert b"team-1" in answer.body
        signature = key.sign(GLIBC.claim.path_info.fingerprint(STORE))
        assert (await push(server, GLIBC.claiming(signatures=(signature,)))).status == 200


async def test_what_is_there_survives_a_restart(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE) as server:
        await server.put(HELLO.place, HELLO.data)
        await push(server, GLIBC)
    async with pushed_to(tmp_path, STORE) as server:
        assert await readable(server, REFERENCE)
        assert (await server.put(f"/{PATH.hash_part}.narinfo", HELLO.narinfo)).status == 200
        assert await readable(server, PATH)
        claim = replace(HELLO.claim, file_size=1)
        assert (await server.put(f"/{PATH.hash_part}.narinfo", claim.format(STORE))).status == 422
