"""Who accepts a coding gets it of texts and of NARs that are not compressed, with a validator of its own."""

import asyncio
import ctypes
import gzip
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import LOG_NAME, PATH, Answer, FakeSource, Served, read_answer
from zstd_library import zstd

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.config.settings import Config
from harmonia_py.config.tables import Zstd
from harmonia_py.nix.hashes import Hash
from harmonia_py.web.http.coding import CODINGS, MIN_BYTES, Coder, Coding, select
from harmonia_py.web.http.transfer import MAX_CODERS
from harmonia_py.web.state import ServingSettings
from harmonia_py.wiring.serving_settings import serving_settings_of

DECODE: dict[str, Callable[[bytes], bytes]] = {"zstd": zstd.decompress, "gzip": gzip.decompress}
NAR_BYTES = b"all the same " * 30_000
LISTING = json.dumps({"version": 1, "root": {"type": "directory", "entries": {}}, "filler": "x" * 300}).encode()
LOG = b"a line of a log\n" * 20_000
NARINFO = f"/{PATH.hash_part}.narinfo"
LS = f"/{PATH.hash_part}.ls"
TEXTS = [f"/log/{LOG_NAME}", "/", "/metrics"]


def nar_url(source: FakeSource) -> str:
    return f"/nar/{Hash.of(source.nar_bytes).nix32}.nar?hash={PATH.hash_part}"


@pytest.fixture
def source() -> FakeSource:
    return FakeSource(nar_bytes=NAR_BYTES, listing_bytes=LISTING, log_bytes=LOG)


@pytest.fixture
async def served(source: FakeSource) -> AsyncIterator[Served]:
    async with Served(source) as served:
        yield served


def decoded(answer: Answer) -> bytes:
    name = answer.headers["Content-Encoding"]
    return answer.body if name is None else DECODE[name](answer.body)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, zstd", "zstd"),
        ("zstd;q=0.5, gzip;q=0.8", "gzip"),
        ("zstd ; q=0.8,gzip; q=0.5", "zstd"),
        ("zstd;q=0, gzip", "gzip"),
        ("zstd;q=0.000, gzip;q=0", None),
        ("*", "zstd"),
        ("*;q=0", None),
        ("zstd;q=0, *", "gzip"),
        ("gzip;q=0.5, identity", None),
        ("gzip;q=0.5, identity;q=0.2", "gzip"),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("identity;q=0", None),
        ("br, deflate", None),
        # What curl, and so Nix from 2.10 on, and browsers send.
        ("deflate, gzip, br, zstd", "zstd"),
        ("gzip, deflate, br", "gzip"),
        ("zstd;q=2, gzip;q=x", None),
        ("zstd;q=-1", None),
        ("zstd q=1", None),
        (";q=1,,", None),
        ("none, bzip2", None),
    ],
)
def test_the_weights_of_the_client_decide_and_then_ours(header: str, coding: str | None) -> None:
    assert select(header) == coding


@given(st.text(max_size=200))
def test_whatever_the_header_is_there_is_a_coding_or_none(header: str) -> None:
    assert select(header) in {None, *CODINGS}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("target", [*TEXTS, "nar"])
async def test_a_coded_answer_decodes_to_the_answer_as_it_is(
    served: Served, source: FakeSource, target: str, coding: str
) -> None:
    target = nar_url(source) if target == "nar" else target
    plain = await served.get(target)
    coded = await served.get(target, {"Accept-Encoding": coding})
    assert (plain.status, coded.status) == (200, 200)
    assert plain.headers["Content-Encoding"] is None
    assert coded.headers["Content-Encoding"] == coding
    assert plain.headers["Vary"] == coded.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["Content-Type"] == coded.headers["Content-Type"]
    assert coded.headers["Accept-Ranges"] is None
    assert target == "/metrics" or decoded(coded) == plain.body
    assert len(coded.body) < len(decoded(coded))
    head = await served.request("HEAD", target, {"Accept-Encoding": coding})
    for name in ("Content-Encoding", "Vary", "ETag", "Content-Type"):
        assert head.headers[name] == coded.headers[name]
    assert source.opened == source.closed


@pytest.mark.parametrize("accept", ["br, gzip, deflate", "zstd", "gzip;q=1, *;q=0"])
@pytest.mark.parametrize("target", [NARINFO, LS])
async def test_narinfos_and_listings_are_as_they_are_for_everybody(served: Served, target: str, accept: str) -> None:
    """nix-index asks for `br, gzip, deflate` and decodes none of them, so it could read nothing of this cache."""
    plain = await served.get(target)
    asked = await served.get(target, {"Accept-Encoding": accept})
    assert len(plain.body) >= MIN_BYTES
    assert (asked.status, asked.body) == (200, plain.body)
    for answer in (plain, asked):
        assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == (None, None)
    assert plain.headers["ETag"] == asked.headers["ETag"]


@pytest.mark.parametrize("target", [f"/log/{LOG_NAME}", "nar"])
async def test_every_coding_has_a_validator_of_its_own(served: Served, source: FakeSource, target: str) -> None:
    target = nar_url(source) if target == "nar" else target
    accepts = [{}, {"Accept-Encoding": "zstd"}, {"Accept-Encoding": "gzip"}]
    etags = [(await served.get(target, headers)).headers["ETag"] for headers in accepts]
    assert len(set(etags)) == 3
    for headers in accepts:
        for etag in etags:
            answer = await served.get(target, {**headers, "If-None-Match": etag})
            same = etag == etags[accepts.index(headers)]
            assert answer.status == (304 if same else 200)
            assert answer.headers["Vary"] == "Accept-Encoding"
            assert not same or (answer.headers["ETag"], answer.headers["Content-Encoding"]) == (etag, None)


async def test_a_range_is_of_the_bytes_as_they_are(served: Served, source: FakeSource) -> None:
    headers = {"Accept-Encoding": "zstd, gzip", "Range": "bytes=5-104"}
    answer = await served.get(nar_url(source), headers)
    assert (answer.status, answer.body) == (206, NAR_BYTES[5:105])
    assert answer.headers["Content-Encoding"] is None
    assert answer.headers["Vary"] == "Accept-Encoding"
    # Whoever has half of a coded answer cannot go on with the bytes as they are.
    coded = (await served.get(nar_url(source), {"Accept-Encoding": "zstd"})).headers["ETag"]
    answer = await served.get(nar_url(source), {**headers, "If-Range": coded})
    assert (answer.status, answer.headers["Content-Encoding"], answer.body) == (200, None, NAR_BYTES)


@pytest.mark.parametrize("target", ["/nix-cache-info", "/health", "/version", "/nothing"])
async def test_a_short_answer_is_as_it_is(served: Served, target: str) -> None:
    answer = await served.get(target, {"Accept-Encoding": "zstd"})
    assert len(answer.body) < 256
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == (None, None)


@pytest.mark.parametrize(("size", "coding"), [(255, None), (256, "gzip")])
async def test_from_256_bytes_on_a_coding_pays(size: int, coding: str | None) -> None:
    async with Served(FakeSource(nar_bytes=b"x" * size)) as served:
        answer = await served.get(f"/nar/{PATH.hash_part}.nar", {"Accept-Encoding": "gzip"})
        assert (answer.headers["Content-Encoding"], decoded(answer)) == (coding, b"x" * size)


async def test_what_is_switched_off_is_as_it_is_for_everybody(source: FakeSource) -> None:
    for text, nars in ((False, True), (True, False), (False, False)):
        async with Served(source, settings=ServingSettings(coding=Coding(text=text, nars=nars))) as served:
            for target, coded in ((f"/log/{LOG_NAME}", text), (nar_url(source), nars)):
                answer = await served.get(target, {"Accept-Encoding": "zstd"})
                assert answer.headers["Content-Encoding"] == ("zstd" if coded else None)
                assert answer.headers["Vary"] == ("Accept-Encoding" if coded else None)


async def test_a_nar_that_fails_midway_is_cut_also_when_it_is_coded(source: FakeSource) -> None:
    def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
        yield NAR_BYTES
        raise OSError

    source.pieces = pieces
    async with Served(source) as served:
        with pytest.raises(asyncio.IncompleteReadError):
            await served.get(nar_url(source), {"Accept-Encoding": "gzip"})
    assert source.opened == source.closed == 1


async def test_a_nar_that_has_to_be_waited_for_is_coded_as_it_comes(source: FakeSource) -> None:
    def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
        for place in range(0, len(NAR_BYTES), 100_000):
            yield Pause(0.001)
            yield NAR_BYTES[place : place + 100_000]

    source.pieces = pieces
    async with Served(source) as served:
        answer = await served.get(nar_url(source), {"Accept-Encoding": "zstd"})
    assert decoded(answer) == NAR_BYTES


async def test_an_answer_that_is_ready_is_that_of_the_slow_way_for_each_coding(
    served: Served, source: FakeSource
) -> None:
    """A ready answer for the wrong client would be binary where text is expected."""
    slow = {accept: await served.get(NARINFO, {"Accept-Encoding": accept}) for accept in ("identity", "gzip", "zstd")}
    asked = len(source.asked)
    for accept, before in slow.items():
        ready = await ask_plainly(served, accept)
        assert ready.body == before.body
        for name in ("ETag", "Content-Encoding", "Vary", "Content-Type", "Content-Length"):
            assert ready.headers[name] == before.headers[name]
    assert len(source.asked) == asked


async def test_a_request_line_that_is_none_gets_no_ready_answer(served: Served) -> None:
    """The keys of ready answers must not be something that a client can spell."""
    await served.get(NARINFO, {"Accept-Encoding": "zstd"})
    for spelling in (f"/zstd {NARINFO[1:]}", f"/zstd\n{NARINFO[1:]}", f"/('zstd', b'{NARINFO[1:]}')"):
        answer = await served.send(f"GET {spelling} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer[8:13] in {b" 400 ", b" 404 "}


async def ask_plainly(served: Served, accept: str) -> Answer:
    """Ask as Nix does, with no header that sends the request the slow way."""
    reader, writer = await served.connect()
    try:
        writer.write(f"GET {NARINFO} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {accept}\r\n\r\n".encode())
        return await read_answer(reader)
    finally:
        writer.close()


def test_the_window_is_one_that_every_client_takes() -> None:
    """RFC 9659: browsers give up beyond 8 MiB. It also bounds what a coder holds for a client that stands still."""
    data = bytes(range(256)) * 64 * 1024
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 19})
    coder = Coding().coder("zstd")
    # Without its size known before, as a stream is.
    assert decompressor.decompress(coder.compress(data) + coder.flush()) == data


def private_memory() -> int:
    """Bytes of this process that it shares with none, without those that the C library has got back and keeps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # musl keeps none
        trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


@pytest.mark.parametrize("name", CODINGS)
def test_a_coder_that_waits_holds_little_whatever_zstd_is_told_for_files_that_are_kept(name: str) -> None:
    """A compressor at the level of `[zstd]` for each client that stalled: 4.4 MiB each by default, 85 at level 19."""
    config = Config(zstd=Zstd(level=19, long_distance_matching=True, window_log=27))
    coding = serving_settings_of(config, (), ()).coding
    # More than any window that the level could want; gzip has one of 32 KiB.
    data = random.Random(1).randbytes(1024 * 1024 if name == "gzip" else 8 * 1024 * 1024)
    coding.coder(name).compress(data)
    before = private_memory()
    coders = [coding.coder(name) for _ in range(MAX_CODERS)]
    for coder in coders:
        coder.compress(data)
    # As docs/explanation/access-and-limits.md says: a MiB each, with what lies between them.
    assert private_memory() - before <= MAX_CODERS * 1.5 * 1024 * 1024
    plain = Coding().coder(name)
    assert coders[0].compress(data) + coders[0].flush() == _second(plain, data)


def _second(coder: Coder, data: bytes) -> bytes:
    """What comes out for `data` when it was taken once before."""
    coder.compress(data)
    return coder.compress(data) + coder.flush()
