"""Bodies of requests, handed to the socket as that takes them. A request that is made again sends all of its body."""

import asyncio
import os
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from msgspec import Struct

_PORTION_BYTES: Final = 128 * 1024
# Read at once from a file: each read is a turn of a thread.
_READ_BYTES: Final = 1024 * 1024
# A socket that takes nothing for so long takes nothing any more.
_STALL_SECONDS: Final = 60.0
_CONTENT_TYPE: Final = "application/octet-stream"


class FileBody(Struct, frozen=True):
    """A file, or a part of one, that stays open and unchanged while it is sent.

    Attributes:
        fd: of it.
        size: bytes that are sent.
        offset: of the first of them.
    """

    fd: int
    size: int
    offset: int = 0


class FormBody(Struct, frozen=True):
    """The fields of a form, as `urlencode` writes them."""

    text: str


Body = bytes | bytearray | memoryview | FileBody | FormBody


def payload_of(body: Body) -> aiohttp.payload.Payload:
    """A body for one request."""
    if isinstance(body, FormBody):
        return _Portions(body.text.encode(), "application/x-www-form-urlencoded")
    return _File(body) if isinstance(body, FileBody) else _Portions(body)


class _Portions(aiohttp.payload.Payload):
    """A body in memory, sent in pieces: of a whole one asyncio would copy the rest."""

    def __init__(self, body: bytes | bytearray | memoryview, content_type: str = _CONTENT_TYPE) -> None:
        super().__init__(body, content_type=content_type)
        self._view = memoryview(body)
        self._size = len(self._view)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Part of Payload."""
        return bytes(self._view).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Part of Payload."""
        for start in range(0, len(self._view), _PORTION_BYTES):
            await writer.write(self._view[start : start + _PORTION_BYTES])


class _File(aiohttp.payload.Payload):
    """A file of any length."""

    def __init__(self, body: FileBody) -> None:
        super().__init__(body, content_type=_CONTENT_TYPE)
        self._body = body
        self._size = body.size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Part of Payload."""
        raise NotImplementedError

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Part of Payload."""
        offset, end = self._body.offset, self._body.offset + self._body.size
        while data := await asyncio.to_thread(os.pread, self._body.fd, min(_READ_BYTES, end - offset), offset):
            offset += len(data)
            view = memoryview(data)
            for start in range(0, len(view), _PORTION_BYTES):
                async with asyncio.timeout(_STALL_SECONDS):
                    await writer.write(view[start : start + _PORTION_BYTES])
