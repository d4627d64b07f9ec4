"""Requests that the framework's parser, or its router, answers in another way than HTTP has it."""

import asyncio
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import LOG_NAME, PATH, TIME_LIMIT, FakeSource, Served, read_answer

from harmonia_py.web.http.request_line import judge

REST = b"\r\nHost: x\r\nConnection: close\r\n\r\n"
LONG = b"/" + b"a" * 8190


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"BREW /nix-cache-info HTTP/1.1", 405),
        (b"get /nix-cache-info HTTP/1.1", 405),
        (b"PROPFIND /nothing HTTP/1.0", 405),
        (b"GET " + LONG + b" HTTP/1.1", 414),
        (b"GET /nix-cache-info HTTP/1.2", 200),
        (b"GET /nix-cache-info HTTP/1.9", 200),
        (b"GET /nix-cache-info HTTP/2.0", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"OPTIONS * HTTP/1.1", 200),
        (b"OPTIONS /nix-cache-info HTTP/1.1", 405),
        (b"GET /nix-cache-info HTTP/11", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET /nix-cache-info HTTP/1.1\r\nX: " + b"y" * 9000, 431),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_what_is_odd_in_a_request_line_has_a_status_of_its_own(line: bytes, status: int) -> None:
    """Unknown methods, long targets and other versions were 400 like garbage, and HTTP/2.0 was answered as 1.0."""
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        writer.write(line + REST)
        answer = await read_answer(reader)
        assert answer.status == status
        assert answer.headers["Connection"] == "close"
        assert "Date" in answer.headers
        assert answer.headers["Server"] == "harmonia-py"
        if status in {200, 405}:
            assert answer.headers["Allow"] in {"GET,HEAD", None}
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /a b HTTP/1.1", 400),
        (b"GET /health HTTP/1.1\r\nX", 400),
        (b"GET /health HTTP/1.1\r\nContent-Length: x", 400),
        (b"GET " + LONG + b" HTTP/1.1", 414),
        (b"GET /health HTTP/1.1\r\nX: " + b"y" * 9000, 431),
        (b"GET /health HTTP/2.0", 505),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_where_the_next_request_could_not_be_found_the_answer_says_that_it_is_the_last(
    line: bytes, status: int
) -> None:
    """The connection ended after an answer of 400, and nothing in the answer had said so."""
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        writer.write(line + b"\r\nHost: x\r\n\r\n")
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["Connection"]) == (status, "close")
        assert await reader.read() == b""
        writer.close()


async def test_an_unknown_method_is_told_which_there_are() -> None:
    async with Served(FakeSource()) as served:
        assert (await served.request("BREW", "/health")).headers["Allow"] == "GET,HEAD"
        assert (await served.request("OPTIONS", "*")).headers["Allow"] == "GET,HEAD"


async def test_a_target_that_is_too_long_is_so_however_it_arrives() -> None:
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        writer.write(b"GET " + LONG)
        assert (await read_answer(reader)).status == 414
        writer.close()


async def test_a_request_that_follows_an_odd_one_is_answered_for_itself() -> None:
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n")
        assert (await read_answer(reader)).status == 200
        writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await read_answer(reader)).status == 404
        writer.close()


@given(st.binary(max_size=200) | st.from_regex(rb"[A-Z]{1,8} [ -~]{0,40} HTTP/[0-9]\.[0-9]\r\n"))
def test_whatever_begins_a_request_is_handed_on_or_has_a_status(data: bytes) -> None:
    judged = judge(data)
    assert isinstance(judged, HTTPStatus) or len(judged) == len(data)


async def test_nobody_is_invited_to_send_what_is_refused() -> None:
    """`100 Continue` came before the 405, so a client sent gigabytes first, which were thrown away."""
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        writer.write(
            b"PUT /nix-cache-info HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n"
        )
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["Connection"]) == (405, "close")
        writer.close()


@pytest.mark.parametrize("output", ["out%7Bput", "", "o%20t", "%7B%7D"])
async def test_what_can_be_no_output_is_a_bad_request_whichever_letter_makes_it_so(output: str) -> None:
    """Braces and an empty name were 404 from the router, which says that the output may come to exist."""
    async with Served(FakeSource()) as served:
        assert (await served.get(f"/build-trace-v2/{LOG_NAME}/{output}.doi")).status == 400
        assert (await served.get(f"/build-trace-v2/{LOG_NAME}/out.doi")).status == 404


async def test_a_condition_that_does_not_hold_is_told_to_the_client() -> None:
    """`If-Match` was ignored: a client that resumes by it got bytes of another representation."""
    targets = ["/nix-cache-info", f"/{PATH.hash_part}.narinfo", f"/{PATH.hash_part}.ls", f"/nar/{PATH.hash_part}.nar"]
    async with Served(FakeSource()) as served:
        for target in targets:
            etag = (await served.get(target)).headers["ETag"]
            for condition in ('"other"', f"W/{etag}", '""'):
                answer = await served.get(target, {"If-Match": condition, "If-None-Match": etag})
                assert (answer.status, answer.body) == (412, b"Precondition Failed\n"), (target, condition)
            for condition in ("*", etag, f'"other", {etag}'):
                assert (await served.get(target, {"If-Match": condition})).status == 200
                assert (await served.get(target, {"If-Match": condition, "If-None-Match": etag})).status == 304


async def test_listings_and_logs_are_taken_for_nothing_else() -> None:
    """A build may write a page into its log; a browser that guesses would show it with the rights of this cache."""
    async with Served(FakeSource()) as served:
        for target in (f"/{PATH.hash_part}.ls", f"/log/{LOG_NAME}"):
            for method in ("GET", "HEAD"):
                assert (await served.request(method, target)).headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize("target", ["/health", f"/{PATH.hash_part}.narinfo", f"/nar/{PATH.hash_part}.nar"])
async def test_a_client_that_shuts_its_side_gets_its_answers(target: str, requests: int) -> None:
    """`printf … | nc -N` mostly got nothing: the end of what it sent closed the connection before the answer."""
    async with Served(FakeSource(nar_bytes=b"n" * 3_000_000)) as served:
        reader, writer = await served.connect()
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * requests)
        writer.write_eof()
        for _ in range(requests):
            assert (await read_answer(reader)).status == 200
        async with asyncio.timeout(TIME_LIMIT):
            assert await reader.read() == b""
        writer.close()


async def test_a_client_that_ends_within_a_request_is_let_go() -> None:
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /health HTTP/1.1\r\n")
        writer.write_eof()
        async with asyncio.timeout(TIME_LIMIT):
            assert await reader.read() == b""
        writer.close()
