"""What a server answers its client, when that makes no sense."""

import pytest

from harmonia_py.client.http import Answer, HttpServer
from harmonia_py.errors import UpstreamProtocolError


@pytest.mark.parametrize("data", [b"", b"{", b'"\xff"', b"[" * 100_000, b"[" * 5_000 + b"]" * 5_000])
def test_what_is_no_json_is_a_fault_of_the_server(data: bytes) -> None:
    """A deeply nested answer was a traceback of the command."""
    with pytest.raises(UpstreamProtocolError, match="the server's answer is no JSON"):
        Answer(200, data).json()


@pytest.mark.parametrize("url", ["http://::1:9000/x", "http://b:x/y", "http://[", "http://b:99999/x"])
async def test_a_place_that_is_no_url_is_a_fault_of_the_server_that_names_it(url: str) -> None:
    """It was a traceback of the command."""
    async with HttpServer("http://127.0.0.1:9", None) as server:
        with pytest.raises(UpstreamProtocolError, match="not a URL"):
            await server.ask("PUT", url)
