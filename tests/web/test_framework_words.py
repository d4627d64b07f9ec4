"""What the framework answers by itself is told as everything else is."""

import pytest
from serving import FakeSource, Served


@pytest.mark.parametrize(
    ("version", "status"),
    [("0.9", "HTTP/1.0 200 OK"), ("1.2", "HTTP/1.1 200 OK"), ("2.0", "HTTP/1.1 505 HTTP Version Not Supported")],
)
async def test_no_version_is_claimed_that_is_not_spoken(version: str, status: str) -> None:
    """The status line repeated whatever version the request had, which a client may take for another protocol."""
    async with Served(FakeSource()) as served:
        answer = await served.send(f"GET /health HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(f"{status}\r\n".encode())


@pytest.mark.parametrize("target", ["/health", "/absent"])
async def test_an_expectation_that_is_not_met_is_not_repeated(target: str) -> None:
    """It was told back to the client as it came, in an answer that could be stored."""
    async with Served(FakeSource()) as served:
        answer = await served.get(target, {"Expect": "<b>200-ok"})
    assert answer.status == 417
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Server"] == "harmonia-py"
    assert answer.body == b"Expectation Failed\n"


async def test_who_waits_to_send_a_body_is_told_to_go_on() -> None:
    async with Served(FakeSource()) as served:
        headers = b"Host: x\r\nContent-Length: 1\r\nConnection: close\r\nExpect: 100-continue\r\n"
        answer = await served.send(b"GET /health HTTP/1.1\r\n" + headers + b"\r\nx")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
