"""Upstreams whose answers are no HTTP, or contradict themselves: a client gets the right file or a clean failure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from blob_readers import read_all
from fault_upstream import COMPRESS, Connection, FaultUpstream, Speak, body, package, status
from mirrors import fetch, kept, leftovers, mirror_of, settle
from msgspec.structs import replace

from harmonia_py.cache.source import DocumentKind
from harmonia_py.errors import HarmoniaError, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from harmonia_py.mirror.upstream import Resume
from harmonia_py.upstream.client import HttpUpstream, Place

# Large enough for threads to read it from the socket.
ONE = package(size=2_000_000, compression="none")
FILE = ONE.file
SIZE = len(FILE)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, FILE)


@asynccontextmanager
async def client_of(upstream: FaultUpstream) -> AsyncIterator[HttpUpstream]:
    async with HttpUpstream(Place(url=upstream.url), name="up", priority=1, public_keys=()) as client:
        yield client


def raw(*lines: str, data: bytes = FILE) -> Speak:
    """These lines, an empty one, and `data`; then the connection ends."""

    async def speak(connection: Connection) -> None:
        await connection.send("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1") + data)
        connection.writer.close()
        connection.closed = True

    return speak


OK = "HTTP/1.1 200 OK"
LENGTH = f"Content-Length: {SIZE}"
CHUNKED = "Transfer-Encoding: chunked"
HINTS = ["HTTP/1.1 103 Early Hints", "Link: <x>", ""] * 20
UNDERSTOOD = {
    "hints": raw(*HINTS, OK, LENGTH),
    "another answer behind it": raw(OK, LENGTH, data=FILE + b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"),
    "up to its end": raw("HTTP/1.0 200 OK"),
    "no reason": raw("HTTP/1.1 200", LENGTH),
    "Latin-1": raw("HTTP/1.1 200 \xff", "X: \xff\xfe", 'ETag: "\xff"', LENGTH),
    "a trailer": raw(OK, CHUNKED, data=CHUNKS[:-2] + b"Trailer: x\r\n\r\n"),
}
REFUSED = {
    "a length and chunks": raw(OK, "Content-Length: 10", CHUNKED, data=CHUNKS),
    "chunks and a length": raw(OK, CHUNKED, LENGTH, data=CHUNKS),
    "one length twice": raw(OK, LENGTH, LENGTH),
    "two lengths": raw(OK, "Content-Length: 10", LENGTH),
    "no length": raw(OK, "Content-Length: -5"),
    "a length beyond every disk": raw(OK, "Content-Length: 99999999999999999999999"),
    "a length below": raw(OK, f"Content-Length: {SIZE - 1}", data=FILE[:-1]),
    "a length above": raw(OK, f"Content-Length: {SIZE + 1}", data=FILE + b"x"),
    "another protocol": raw("HTTP/1.1 101 X", "Upgrade: x", "Connection: upgrade"),
    "coded": raw(OK, "Content-Encoding: gzip", LENGTH),
    "no chunk": raw(OK, CHUNKED, data=b"zz\r\n" + FILE),
    "a chunk beyond every disk": raw(OK, CHUNKED, data=b"f" * 18 + b"\r\n" + FILE),
    "no last chunk": raw(OK, CHUNKED, data=CHUNKS[:-5]),
    "one chunk too many": raw(OK, CHUNKED, data=CHUNKS[:-5] + b"1\r\nx\r\n0\r\n\r\n"),
    "a header without end": raw(OK, "X: " + "x" * 100_000, LENGTH),
    "headers without end": raw(OK, *[f"X{number}: y" for number in range(50_000)], LENGTH),
    "a status that is none": raw("HTTP/1.1 99999 X", LENGTH),
    "a part": raw("HTTP/1.1 206 X", f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}", LENGTH),
}


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("answer", UNDERSTOOD.values(), ids=list(UNDERSTOOD))
async def test_what_is_unusual_is_understood(
    upstream: FaultUpstream, tmp_path: Path, *, answer: Speak, keeps: bool
) -> None:
    one = replace(ONE, with_file_hash=False)
    upstream.serve(one)
    upstream.answers[f"/{one.path}"] = answer
    async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
        assert await fetch(mirror, one) == FILE


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("answer", REFUSED.values(), ids=list(REFUSED))
async def test_what_contradicts_itself_never_ends_and_is_never_kept(
    upstream: FaultUpstream, tmp_path: Path, *, answer: Speak, keeps: bool
) -> None:
    one = replace(ONE, with_file_hash=False)
    upstream.serve(one)
    upstream.answers[f"/{one.path}"] = answer
    async with mirror_of(upstream, directory=tmp_path if keeps else None, stall_timeout=0.3) as mirror:
        with pytest.raises(HarmoniaError):
            await fetch(mirror, one)
        await settle(mirror)
        if keeps:
            assert kept(tmp_path) == leftovers(tmp_path) == []


# What stands for nothing and may come again and again, behind a file or in its place.
PADDING = {
    "xz": bytes(65536),
    "zstd": b"\x50\x2a\x4d\x18" + (65536 - 8).to_bytes(4, "little") + bytes(65536 - 8),
    "gzip": COMPRESS["gzip"](b"") * 3000,
    "bzip2": COMPRESS["bzip2"](b"") * 4000,
}


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("compression", PADDING)
async def test_a_file_that_has_no_end_is_given_up_long_before_the_disk_is_full(
    upstream: FaultUpstream, tmp_path: Path, *, compression: str, behind: bool, keeps: bool
) -> None:
    """No header says how long the file is, and what is in it never gets longer than the NAR should be."""
    one = replace(package(compression=compression), with_file_hash=False)
    upstream.serve(one)
    sent = 0

    async def speak(connection: Connection) -> None:
        nonlocal sent
        head = one.file if behind else b""
        await connection.respond(b"", Transfer_Encoding="chunked")
        portion = PADDING[compression]
        while sent < 100_000_000:
            await connection.send(b"%x\r\n%b\r\n" % (len(head + portion), head + portion))
            sent += len(portion)
            head = b""
        await connection.send(b"0\r\n\r\n")

    upstream.answers[f"/{one.path}"] = speak
    async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
        with pytest.raises(HarmoniaError):
            await fetch(mirror, one)
        await settle(mirror)
        if keeps:
            assert kept(tmp_path) == leftovers(tmp_path) == []
    assert sent < 50_000_000


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("encoding", [None, "xz", "zstd", "gzip"])
async def test_a_log_that_has_no_end_is_given_up_as_well(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, encoding: str | None, keeps: bool
) -> None:
    monkeypatch.setattr("harmonia_py.contents.document_check._MAX_DOCUMENT_BYTES", 1_000_000)
    derivation = package(3).path_info.store_path
    portion = b"line\n" * 10_000 if encoding is None else PADDING[encoding]

    async def speak(connection: Connection) -> None:
        coded = {} if encoding is None else {"Content_Encoding": encoding}
        await connection.respond(b"", Transfer_Encoding="chunked", **coded)
        while True:
            await connection.send(b"%x\r\n%b\r\n" % (len(portion), portion))

    upstream.answers[f"/log/{derivation}"] = speak
    async with asyncio.timeout(90), mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
        with pytest.raises(HarmoniaError):  # noqa: PT012  # from the first byte on
            found = await mirror.document(DocumentKind.LOG, derivation)
            assert found is not None
            with found:
                await read_all(found.pieces(0, found.size))
        await settle(mirror)
        if keeps:
            assert kept(tmp_path) == leftovers(tmp_path) == []


OTHER_REST = {
    "encoding": {"Content_Encoding": "gzip", "Content_Range": "bytes 500-999/1000"},
    "length": {"Content_Range": "bytes 500-998/999"},
    "tag": {"ETag": '"other"', "Content_Range": "bytes 500-999/1000"},
    "place": {"Content_Range": "bytes 501-999/1000"},
}


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("headers", OTHER_REST.values(), ids=list(OTHER_REST))
async def test_the_rest_of_another_file_is_not_put_behind_the_beginning_of_a_log(
    upstream: FaultUpstream, tmp_path: Path, *, headers: dict[str, str], keeps: bool
) -> None:
    """No hash tells what a log should be: all that holds it together is what the upstream says of its parts."""
    derivation = package(3).path_info.store_path

    async def speak(connection: Connection) -> None:
        if "range" in connection.request.headers:
            start = int(headers["Content_Range"].split()[1].split("-")[0])
            await connection.respond(b"y" * (1000 - start), 206, **({"ETag": '"tag"'} | headers))
            return
        await connection.respond(b"x" * 500, Content_Length="1000", ETag='"tag"')
        connection.cut()

    upstream.answers[f"/log/{derivation}"] = speak
    async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
        found = await mirror.document(DocumentKind.LOG, derivation)
        assert found is not None
        with found, pytest.raises(HarmoniaError):
            await read_all(found.pieces(0, found.size))
        await settle(mirror)
        if keeps:
            assert kept(tmp_path) == leftovers(tmp_path) == []


MALFORMED = [
    "http://[/x", "http://x:99999/", "http://x:port/", "https://127.0.0.1:-1/", "http://127.0.0.1:1e3/", "http://a..b/",
    "http://xn--/", "http://%00/", "http://" + "a" * 300 + "/", "http://\u2100/", "http://.../", "file:///etc/passwd",
    "gopher://x/",
]  # fmt: skip


@pytest.mark.parametrize("url", MALFORMED)
async def test_a_url_that_leads_nowhere_is_the_upstreams_failure(
    upstream: FaultUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    """Host and port of a URL are parsed when they are asked for: their errors were nobody's, and no breaker's."""
    one = replace(package(), url=url)
    upstream.answers[f"/{one.hash_part}.narinfo"] = body(one.narinfo_text)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        with pytest.raises(HarmoniaError):
            await fetch(mirror, one)
        await settle(mirror)
    assert "upstream up0: " in caplog.text
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("url", MALFORMED)
async def test_nor_is_a_redirect_followed_there(upstream: FaultUpstream, url: str) -> None:
    upstream.answers["/x"] = raw("HTTP/1.1 302 X", f"Location: {url.encode().decode('latin-1')}", data=b"")
    async with client_of(upstream) as client:
        with pytest.raises(UpstreamError):
            await client.open("x")


@pytest.mark.parametrize(
    "part",
    ["", "bytes */4", "bytes 2-3", "bytes -3/4", "bytes \u0662-3/4", "bits 2-3/4", f"bytes {'9' * 5000}-3/4",
     f"bytes 2-3/{'9' * 5000}", "bytes 2-3/4, bytes 0-1/4"],
)  # fmt: skip
async def test_a_part_that_does_not_say_which_is_refused(upstream: FaultUpstream, part: str) -> None:
    upstream.answers["/x"] = status(206, b"cd", Content_Range=part)
    async with client_of(upstream) as client:
        with pytest.raises(UpstreamProtocolError):
            await client.open("x", Resume(2, '"v"'))


@pytest.mark.parametrize(
    "text",
    ["x", "", "-1", "\xb2", "9" * 5000, "Fri, 1 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 -0000"],
)
async def test_whoever_asks_for_rest_until_a_day_that_does_not_come_does_not_answer(
    upstream: FaultUpstream, text: str
) -> None:
    upstream.answers["/x"] = status(503, Retry_After=text)
    async with client_of(upstream) as client:
        with pytest.raises(UpstreamUnreachable):
            await client.open("x")
