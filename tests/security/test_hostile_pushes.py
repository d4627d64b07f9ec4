"""Each attack by name: refused, with nothing visible and nothing left."""

import asyncio
import json
import lzma
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, Pushed, push, pushed
from pushing import PushServer, pushed_to
from serving import TIME_LIMIT, Answer
from trees import File, Folder, Link
from waiting import eventually
from zstd_library import zstd

from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.nar import string, strings
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.claims import PushedFile


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PushServer]:
    async with pushed_to(tmp_path, STORE) as server:
        yield server


def left(server: PushServer) -> list[str]:
    """The files that are kept or begun."""
    files = (path.relative_to(server.directory) for path in server.directory.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if path.name != ".version")


async def refused(server: PushServer, answer: Answer, *words: str, path: StorePath = PATH) -> None:
    """See that the answer is one line that says this, and that readers and later clients see nothing."""
    assert 400 <= answer.status < 500
    assert answer.body.count(b"\n") == 1
    for word in words:
        assert word in answer.body.decode()
    assert (await server.get(f"/{path.hash_part}.narinfo")).status == 404
    assert (await server.get(f"/push/{path.hash_part}.narinfo", token="pusher")).status == 404
    assert f"team/{path.hash_part}.narinfo" not in left(server)


async def test_what_is_honest_is_taken(server: PushServer) -> None:
    assert (await push(server, GLIBC)).status == 200
    assert (await push(server, HELLO)).status == 200
    assert (await server.get(f"/{PATH.hash_part}.narinfo")).status == 200


# Files


@pytest.mark.parametrize("data", [b"", HELLO.data[:-8], HELLO.data + b"\0" * 8, b"\0" * len(HELLO.data)])
async def test_a_body_that_is_not_the_file_of_the_url(server: PushServer, data: bytes) -> None:
    """Nix up to 2.33.1 sends an empty or truncated body when it tries again: NixOS/nix#15047."""
    answer = await server.put(HELLO.place, data)
    await refused(server, answer, "nar/")
    assert answer.status == 400
    assert left(server) == []
    assert (await server.get(f"/push{HELLO.place}", token="pusher", method="HEAD")).status == 404


async def test_a_body_that_ends_before_its_announced_length(server: PushServer) -> None:
    """A client that was killed in the middle of a push held its place for 70 seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = [f"PUT /team/push{HELLO.place} HTTP/1.1", "Host: x", "Authorization: Bearer pusher"]
    writer.write("\r\n".join([*head, f"Content-Length: {len(HELLO.data)}", "", ""]).encode() + HELLO.data[:-8])
    writer.write_eof()
    async with asyncio.timeout(TIME_LIMIT):
        assert not (await reader.read()).startswith(b"HTTP/1.1 2")
    writer.close()
    assert (await server.get(f"/push{HELLO.place}", token="pusher", method="HEAD")).status == 404
    await eventually(lambda: left(server) == [])


async def test_a_body_whose_length_is_not_announced(server: PushServer) -> None:
    answer = await server.put(HELLO.place, b"0\r\n\r\n", {"Transfer-Encoding": "chunked", "Content-Length": "5"})
    assert 400 <= answer.status < 500


@pytest.mark.parametrize("compression", ["xz", "zstd", "bzip2", "br", "gzip"])
async def test_a_bomb(tmp_path: Path, compression: str) -> None:
    """A few kilobytes that stand for gigabytes of zeros."""
    async with pushed_to(tmp_path, STORE, CacheSettings(max_nar_size=8 * 1024 * 1024)) as server:
        bomb = pushed(PATH, File(bytes(32 * 1024 * 1024)), compression=compression)
        assert len(bomb.data) < 64 * 1024
        answer = await push(server, bomb)
        await refused(server, answer, "NarSize")
        assert left(server) == []


def with_a_wide_window(data: bytes) -> bytes:
    """The xz stream, whose first block says that it wants a dictionary of 4 GiB."""
    length = (data[12] + 1) * 4
    block = bytearray(data[12 : 12 + length - 4])
    place = block.index(b"\x21\x01") + 2  # LZMA2 and the number of bytes of its properties
    block[place] = 40
    return data[:12] + bytes(block) + struct.pack("<I", zlib.crc32(block)) + data[12 + length :]


def wide(compression: str) -> bytes:
    if compression == "xz":
        return with_a_wide_window(lzma.compress(HELLO.data))
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    return compressor.compress(HELLO.data) + compressor.flush()


@pytest.mark.parametrize("compression", ["xz", "zstd"])
async def test_a_file_that_wants_a_huge_window(server: PushServer, compression: str) -> None:
    """A zstd frame may ask for 2 TiB of memory, an xz stream for 4 GiB."""
    data = wide(compression)
    file = PushedFile(Hash.of(data), compression)
    answer = await server.put(f"/nar/{file}", data)
    await refused(server, answer)
    assert left(server) == []


async def test_compressions_that_cannot_be_checked_are_refused_before_the_body(server: PushServer) -> None:
    file = PushedFile(Hash.of(b"x"), "lz4")
    answer = await server.put(f"/nar/{file}", b"", {"Expect": "100-continue", "Content-Length": "1000000"})
    await refused(server, answer, "lz4", "compression=zstd")


def node(*entries: bytes) -> bytes:
    return strings(b"(", b"type", b"directory") + b"".join(entries) + string(b")")


def entry(name: bytes, inner: bytes) -> bytes:
    return strings(b"entry", b"(", b"name", name, b"node") + inner + string(b")")


FILE = strings(b"(", b"type", b"regular", b"contents", b"", b")")


def nested(depth: int) -> bytes:
    inner = FILE
    for _ in range(depth):
        inner = node(entry(b"a", inner))
    return inner


@pytest.mark.parametrize(
    "root",
    [
        pytest.param(nested(1000), id="nested deeper than the stack of a daemon: CVE-2026-44028"),
        pytest.param(node(entry(b"..", FILE)), id="a name that leads out of the folder: CVE-2024-45593"),
        pytest.param(node(entry(b"a/b", FILE)), id="a name that is a path"),
        pytest.param(node(entry(b"b", FILE), entry(b"a", FILE)), id="out of order"),
        pytest.param(node(entry(b"a", FILE), entry(b"a", FILE)), id="a name twice"),
        pytest.param(node(entry(b"a" * 256, FILE)), id="a name too long"),
        pytest.param(node(entry(b"a~nix~case~hack~1", FILE)), id="a name for macOS"),
        pytest.param(strings(b"(", b"type", b"symlink", b"target", b"x" * 5000, b")"), id="a target too long"),
        pytest.param(FILE + b"\0" * 8, id="bytes behind the end"),
        pytest.param(b"x" * 200, id="no archive"),
    ],
)
@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_an_archive_that_harms_clients(server: PushServer, root: bytes, compression: str) -> None:
    archive = strings(b"nix-archive-1") + root
    data = archive if compression == "none" else zstd.compress(archive)
    file = PushedFile(Hash.of(data), compression)
    answer = await server.put(f"/nar/{file}", data)
    await refused(server, answer, f"nar/{file}")
    assert left(server) == []


# Claims


def lie(field: str) -> Pushed:
    info = HELLO.claim.path_info
    wrong = Hash.of(b"wrong")
    claims = {
        "NarHash": replace(HELLO.claim, path_info=replace(info, nar_hash=wrong)),
        "NarSize": replace(HELLO.claim, path_info=replace(info, nar_size=info.nar_size + 8)),
        "FileHash": replace(HELLO.claim, file_hash=wrong),
        "FileSize": replace(HELLO.claim, file_size=1),
        "Compression": replace(HELLO.claim, compression="xz"),
    }
    return replace(HELLO, claim=claims[field])


@pytest.mark.parametrize("field", ["NarHash", "NarSize", "FileHash", "FileSize", "Compression"])
async def test_a_wrong_field(server: PushServer, field: str) -> None:
    await push(server, GLIBC)
    await refused(server, await push(server, lie(field)), f"{field}:")
    # The file may still be that of an honest narinfo.
    assert (await push(server, HELLO)).status == 200


async def test_a_reference_that_is_left_out(server: PushServer) -> None:
    """Its closure would be broken: nothing would bring the reference along."""
    await push(server, GLIBC)
    info = replace(HELLO.claim.path_info, references=())
    answer = await push(server, replace(HELLO, claim=replace(HELLO.claim, path_info=info)))
    await refused(server, answer, "References:", REFERENCE)


async def test_a_reference_that_is_invented(server: PushServer) -> None:
    await push(server, GLIBC)
    invented = StorePath("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-invented")
    info = replace(HELLO.claim.path_info, references=(REFERENCE, invented))
    answer = await push(server, replace(HELLO, claim=replace(HELLO.claim, path_info=info)))
    await refused(server, answer, "References:", invented)


async def test_the_name_of_another_path(server: PushServer) -> None:
    await server.put(HELLO.place, HELLO.data)
    answer = await server.put(f"/{REFERENCE.hash_part}.narinfo", HELLO.narinfo)
    await refused(server, answer, "StorePath:")
    assert (await server.get(f"/{REFERENCE.hash_part}.narinfo")).status == 404


async def test_a_narinfo_without_its_nar(server: PushServer) -> None:
    answer = await server.put(f"/{PATH.hash_part}.narinfo", HELLO.narinfo)
    await refused(server, answer, "URL:", "--refresh")
    assert answer.status == 409


async def test_a_nar_without_narinfo_is_seen_by_no_reader(server: PushServer) -> None:
    assert (await server.put(HELLO.place, HELLO.data)).status == 200
    assert (await server.get(f"/push{HELLO.place}", token="pusher", method="HEAD")).status == 200
    assert (await server.get(HELLO.place)).status == 404
    assert (await server.get(f"/push{HELLO.place}", token="stranger")).status == 403


async def test_a_nar_of_another_cache_cannot_be_claimed(server: PushServer) -> None:
    """A client that knows only the hash of a file has not shown that it may have the file."""
    await server.put(HELLO.place, HELLO.data)
    place = f"/other/push{HELLO.place}"
    assert (await server.request("HEAD", place, token="stranger")).status == 404
    target = f"/other/push/{PATH.hash_part}.narinfo"
    answer = await server.request("PUT", target, HELLO.narinfo, token="stranger")
    assert answer.status == 409


@pytest.mark.parametrize("url", ["https://evil.example/x.nar", "../../other/nar/x.nar", "/etc/passwd", "nar/../x.nar"])
async def test_a_url_that_leads_elsewhere(server: PushServer, url: str) -> None:
    await server.put(HELLO.place, HELLO.data)
    answer = await push(server, replace(HELLO, claim=replace(HELLO.claim, url=url)))
    await refused(server, answer)


async def test_a_hundred_thousand_signatures(server: PushServer) -> None:
    await server.put(HELLO.place, HELLO.data)
    line = b"Sig: k:" + b"A" * 86 + b"==\n"
    answer = await server.put(f"/{PATH.hash_part}.narinfo", HELLO.narinfo + line * 100_000)
    await refused(server, answer)
    key = SecretKey.generate("k")
    signatures = tuple(replace(key.sign(b"x"), key_name=f"k{number}") for number in range(101))
    info = replace(HELLO.claim.path_info, signatures=signatures)
    answer = await push(server, replace(HELLO, claim=replace(HELLO.claim, path_info=info)))
    await refused(server, answer, "Sig:")


async def test_line_breaks_in_fields_reach_no_reader(server: PushServer) -> None:
    await push(server, GLIBC)
    for field in ("StorePath", "URL", "Compression", "FileHash", "NarHash", "References"):
        lines = HELLO.narinfo.decode().splitlines()
        broken = [f"{line}\nSig: evil:x" if line.startswith(field) else line for line in lines]
        answer = await push(server, HELLO)
        answer = await server.put(f"/{PATH.hash_part}.narinfo", "\n".join([*broken, ""]).encode())
        assert answer.status == 400
        for end in ("\r", "\x0b", "\x85", "\u2028"):
            broken = [line + end if line.startswith(field) else line for line in lines]
            answer = await server.put(f"/{PATH.hash_part}.narinfo", "\n".join([*broken, ""]).encode())
            assert 400 <= answer.status < 500
    assert (await server.get(f"/{PATH.hash_part}.narinfo")).body.count(b"Sig") == 0


FIELDS = (
    *("StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize"),
    *("References", "Deriver", "Sig", "CA"),
)


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\0"])
@pytest.mark.parametrize("field", FIELDS)
async def test_what_some_program_takes_for_the_end_of_a_line_is_in_no_field(
    server: PushServer, field: str, end: str
) -> None:
    """A narinfo that one program reads as `Deriver: …` and another as two lines, of which the second is a signature."""
    await push(server, GLIBC)
    assert (await server.put(HELLO.place, HELLO.data)).status == 200
    deriver = StorePath("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-hello.drv")
    signature = SecretKey.generate("k").sign(b"x")
    claim = HELLO.claiming(deriver=deriver, signatures=(signature,)).narinfo.decode() + "CA: fixed:r:sha256:0\n"
    assert {line.partition(":")[0] for line in claim.splitlines()} == set(FIELDS)
    for forged in (end, f"{end}Sig: evil:AAAA", f"{end}URL: https://evil.example/"):
        lines = [line + forged if line.startswith(f"{field}:") else line for line in claim.split("\n")]
        answer = await server.put(f"/{PATH.hash_part}.narinfo", "\n".join(lines).encode())
        await refused(server, answer)


async def test_the_first_nar_of_a_path_stays(server: PushServer) -> None:
    """A pusher who would put another program in the place of one that others have built and use."""
    await push(server, GLIBC)
    before = (await server.get(f"/{REFERENCE.hash_part}.narinfo")).body
    evil = pushed(REFERENCE, Folder({b"lib": File(b"evil")}))
    assert (await push(server, evil)).status == 200
    assert (await server.get(f"/{REFERENCE.hash_part}.narinfo")).body == before


async def test_a_listing_and_a_place_of_debug_information_that_lie_are_not_what_readers_get(server: PushServer) -> None:
    """A pusher who would show other files than the path has, or lead a debugger to those of another path."""
    await push(server, GLIBC)
    build_id = "ab" * 20
    lie = b'{"version": 1, "root": {"type": "regular", "size": 1, "executable": false}}'
    assert (await server.put(f"/{REFERENCE.hash_part}.ls", lie)).status == 200
    assert (await server.put(f"/debuginfo/{build_id}.debug", b'{"archive": "../evil", "member": "x"}')).status == 200
    listing = json.loads((await server.get(f"/{REFERENCE.hash_part}.ls")).body)
    assert listing["root"]["type"] == "directory"
    assert (await server.get(f"/debuginfo/{build_id}.debug")).status == 404


async def test_the_first_realisation_of_an_output_stays(server: PushServer) -> None:
    """A pusher who would have clients take another path for what a derivation makes."""
    await push(server, GLIBC)
    await push(server, HELLO)
    output = f"sha256:{'ab' * 32}!out"
    for path in (REFERENCE, PATH):
        body = {"id": output, "outPath": path, "signatures": [], "dependentRealisations": {}}
        answer = await server.put(f"/realisations/{output}.doi", json.dumps(body).encode())
        assert answer.status == 200
    told = json.loads((await server.get(f"/realisations/{output}.doi")).body)
    assert told["outPath"] == REFERENCE


async def test_a_cache_info_changes_nothing(server: PushServer) -> None:
    before = (await server.get("/nix-cache-info")).body
    assert (await server.put("/nix-cache-info", b"StoreDir: /nix/store\nPriority: 1\n")).status == 200
    assert (await server.get("/nix-cache-info")).body == before


async def test_a_content_address_of_other_contents(server: PushServer) -> None:
    archive = pushed(PATH, File(b"contents"))
    for prefix in ("text:sha256:", "fixed:sha256:", "fixed:r:sha256:", "fixed:r:sha1:"):
        digest = "0" * (32 if "sha1" in prefix else 52)
        lines = archive.narinfo + f"CA: {prefix}{digest}\n".encode()
        await server.put(archive.place, archive.data)
        await refused(server, await server.put(f"/{PATH.hash_part}.narinfo", lines), "CA:")


# Access


@pytest.mark.parametrize(("token", "status"), [("reader", 403), ("stranger", 403), ("nonsense", 401)])
async def test_a_token_for_something_else_is_refused_before_the_body(
    server: PushServer, token: str, status: int
) -> None:
    headers = {"Expect": "100-continue", "Content-Length": str(10**9)}
    answer = await server.put(HELLO.place, b"", headers, token=token)
    assert answer.status == status
    assert answer.body.count(b"\n") == 1
    assert left(server) == []


async def test_a_private_cache_looks_the_same_whether_it_has_a_path_or_not(server: PushServer) -> None:
    await push(server, GLIBC)
    answers = [
        await server.request("GET", target, token="stranger")
        for target in (f"/team/{REFERENCE.hash_part}.narinfo", f"/team/{PATH.hash_part}.narinfo", "/none/x.narinfo")
    ]
    assert len({(answer.status, answer.body.replace(b"none", b"team")) for answer in answers}) == 1


async def test_what_another_cache_has_takes_as_many_steps_as_what_no_cache_has(
    server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has the bytes must not learn by the time that an answer takes whether others have pushed them."""
    await push(server, GLIBC)
    await server.request("HEAD", f"/other/push{HELLO.place}", token="stranger")  # the session begins
    await server.node.static_writer.written()  # behind the first push, not behind an answer that is counted
    steps: list[str] = []
    for name in ("read", "write"):

        async def counted(*arguments: object, name: str = name, **options: object) -> object:
            steps.append(name)
            return await getattr(type(server.catalog.database), name)(server.catalog.database, *arguments, **options)

        monkeypatch.setattr(server.catalog.database, name, counted)
    taken = []
    for what in (GLIBC, pushed(REFERENCE, Folder({b"lib": File(b"LIBC")}))):
        for method, body in (("HEAD", None), ("PUT", what.data)):
            steps.clear()
            answer = await server.request(method, f"/other/push{what.place}", body, token="stranger")
            taken.append((method, answer.status, answer.body, sorted(steps)))
    assert taken[:2] == taken[2:]


async def test_a_file_larger_than_the_cache_takes_is_refused_before_the_body(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE, CacheSettings(max_nar_size=1000)) as server:
        headers = {"Expect": "100-continue", "Content-Length": "1001"}
        answer = await server.put(HELLO.place, b"", headers)
        assert answer.status == 413
        assert b"1000" in answer.body


async def test_a_cache_that_is_full_says_so_before_the_body(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE, CacheSettings(max_size=len(GLIBC.data))) as server:
        assert (await push(server, GLIBC)).status == 200
        headers = {"Expect": "100-continue", "Content-Length": str(len(HELLO.data) - 1)}
        answer = await server.put(HELLO.place, b"", headers)
        assert answer.status == 413


async def test_links_that_lead_anywhere_are_only_bytes(server: PushServer) -> None:
    path = StorePath("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-links")
    answer = await push(server, pushed(path, Folder({b"a": Link(b"/etc/passwd"), b"b": Link(b"../../../..")})))
    assert answer.status == 200
