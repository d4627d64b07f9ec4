"""What a server answers its client, when that makes no sense."""

import pytest

from harmonia_py.client.http import Answer
from harmonia_py.errors import UpstreamProtocolError


@pytest.mark.parametrize("data", [b"", b"{", b'"\xff"', b"[" * 100_000, b"[" * 5_000 + b"]" * 5_000])
def test_what_is_no_json_is_a_fault_of_the_server(data: bytes) -> None:
    """A deeply nested answer was a traceback of the command."""
    with pytest.raises(UpstreamProtocolError, match="the server's answer is no JSON"):
        Answer(200, data).json()
