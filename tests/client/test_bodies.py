"""Bodies of requests, handed to a socket that is slow."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractStreamWriter

from harmonia_py.client.bodies import FileBody, payload_of

_MIB = 1024 * 1024


class SlowSocket(AbstractStreamWriter):
    """Takes each portion within some seconds of the clock of the loop, which it turns itself."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = seconds
        self.taken = 0
        self._ahead = 0.0
        loop = asyncio.get_running_loop()
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + self._ahead)

    async def write(self, chunk: Any) -> None:
        self._ahead += self.seconds
        for _ in range(3):  # what the clock sets off, the loop does now
            await asyncio.sleep(0)
        self.taken += len(chunk)

    async def write_eof(self, chunk: bytes = b"") -> None: ...

    async def drain(self) -> None: ...

    def enable_compression(self, *_: Any, **__: Any) -> None: ...

    def enable_chunking(self) -> None: ...

    async def write_headers(self, *_: Any) -> None: ...


async def send(tmp_path: Path, socket: SlowSocket) -> None:
    (tmp_path / "file").write_bytes(bytes(2 * _MIB))
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        await payload_of(FileBody(fd, 2 * _MIB)).write(socket)
    finally:
        os.close(fd)


async def test_a_line_that_is_slow_and_steady_does_not_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of less than 17 KiB a second took more than a minute for a MiB, and was given up."""
    socket = SlowSocket(20.0, monkeypatch)
    await send(tmp_path, socket)
    assert socket.taken == 2 * _MIB


async def test_a_socket_that_takes_nothing_for_a_minute_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = SlowSocket(61.0, monkeypatch)
    with pytest.raises(TimeoutError):
        await send(tmp_path, socket)
    assert socket.taken == 0
