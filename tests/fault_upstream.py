"""An upstream made of bytes, for everything that a real one does only on its worst day.

    async with FaultUpstream() as upstream:
        upstream.serve(package)                      # its narinfo and its NAR, as a good cache would
        upstream.answers["/x.narinfo"] = status(500) # or anything else: a coroutine that speaks to one connection
        upstream.url; upstream.requests              # Request(path, headers), in the order they came

`Package` is a store path with a NAR, a file of it, and a signed narinfo.
"""

import asyncio
import bz2
import contextlib
import gzip
import lzma
import random
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self

import brotli
from msgspec import Struct
from msgspec.structs import replace
from zstd_library import zstd

from harmonia_py.nix.base32 import encode
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import SUFFIXES, NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

STORE_DIR: Final = StoreDir.parse("/nix/store")
KEY: Final = SecretKey.generate("upstream-1")
OTHER_KEY: Final = SecretKey.generate("other-1")


def lzip(data: bytes) -> bytes:
    """One member, as lzip makes it: header, LZMA with an end marker, checksum and sizes."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 3, "lp": 0, "pb": 2}]
    stream = lzma.compress(data, lzma.FORMAT_RAW, filters=filters)
    return b"LZIP\x01\x14" + stream + struct.pack("<IQQ", zlib.crc32(data), len(data), len(stream) + 26)


COMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "none": bytes,
    "xz": partial(lzma.compress, preset=1),
    "zstd": zstd.compress,
    "bzip2": partial(bz2.compress, compresslevel=1),
    "gzip": gzip.compress,
    # Its default takes ten seconds for three megabytes of noise.
    "br": partial(brotli.compress, quality=4),
    "lzip": lzip,
}


class Package(Struct, frozen=True, kw_only=True):
    """What a good upstream has of one path."""

    path_info: PathInfo
    nar: bytes
    file: bytes
    compression: str
    url: str = ""
    with_file_hash: bool = True

    @property
    def hash_part(self) -> HashPart:
        return self.path_info.store_path.hash_part

    @property
    def our_url(self) -> NarUrl:
        return NarUrl(self.hash_part, self.path_info.nar_hash, self.compression)

    @property
    def path(self) -> str:
        return self.url or f"nar/{Hash.of(self.file).nix32}.nar{SUFFIXES[self.compression]}"

    @property
    def narinfo(self) -> NarInfo:
        return NarInfo(
            path_info=self.path_info,
            url=self.path,
            compression=self.compression,
            file_hash=Hash.of(self.file) if self.with_file_hash else None,
            file_size=len(self.file) if self.with_file_hash else None,
        )

    @property
    def narinfo_text(self) -> bytes:
        return self.narinfo.format(STORE_DIR)


def package(
    number: int = 0, *, size: int = 5000, compression: str = "xz", key: SecretKey | None = KEY, nar: bytes | None = None
) -> Package:
    """A path of its own for each number, whose NAR compresses by half."""
    noise = random.Random(number)
    data = nar if nar is not None else (noise.randbytes(size - size // 2) + bytes(size // 2))
    store_path = StorePath.parse(f"{encode(noise.randbytes(20))}-package-{number}")
    info = PathInfo(store_path=store_path, nar_hash=Hash.of(data), nar_size=len(data))
    return signed(Package(path_info=info, nar=data, file=COMPRESS[compression](data), compression=compression), key)


def signed(unsigned: Package, key: SecretKey | None) -> Package:
    """This package with a signature by this key alone."""
    info = replace(unsigned.path_info, signatures=())
    signatures = () if key is None else (key.sign(info.fingerprint(STORE_DIR)),)
    return replace(unsigned, path_info=replace(info, signatures=signatures))


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    method: str = "GET"


@dataclass
class Connection:
    """One request that came, and the way back."""

    request: Request
    writer: asyncio.StreamWriter
    closed: bool = field(default=False)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def respond(self, body: bytes = b"", code: int = 200, /, **headers: str) -> None:
        lines = [f"HTTP/1.1 {code} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join([*lines, "", ""]).encode() + (b"" if self.request.method == "HEAD" else body))

    def cut(self) -> None:
        self.closed = True
        transport = self.writer.transport
        transport.abort()


Speak = Callable[[Connection], Awaitable[None]]


def status(code: int, body: bytes = b"", **headers: str) -> Speak:
    return lambda connection: connection.respond(body, code, **headers)


def body(data: bytes, **headers: str) -> Speak:
    return lambda connection: connection.respond(data, **headers)


async def hang(connection: Connection) -> None:
    await asyncio.sleep(3600)
    connection.cut()


async def refuse(connection: Connection) -> None:
    connection.cut()


def file_with_ranges(data: bytes, *, cuts: int = 0, cut_after: int = 0, etag: str = '"tag"') -> Speak:
    """A file as a good server has it, that is cut so often after so many bytes of an answer."""
    left = [cuts]

    async def speak(connection: Connection) -> None:
        start = 0
        headers = {"ETag": etag, "Accept_Ranges": "bytes"}
        requested = connection.request.headers.get("range")
        code = 200
        if requested is not None and connection.request.headers.get("if-range", etag) == etag:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            code = 206
        part = data[start:]
        headers["Content_Length"] = str(len(part))
        if left[0]:
            left[0] -= 1
            await connection.respond(part[:cut_after], code, **headers)
            connection.cut()
        else:
            await connection.respond(part, code, **headers)

    return speak


class FaultUpstream:
    def __init__(self) -> None:
        self.answers: dict[str, Speak] = {}
        self.requests: list[Request] = []
        self.default: Speak = status(404)
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.start(0)
        return self

    async def start(self, port: int) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """From now on connections are refused."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def serve(self, *packages: Package) -> None:
        for one in packages:
            self.answers[f"/{one.hash_part}.narinfo"] = body(one.narinfo_text)
            self.answers[f"/{one.path}"] = file_with_ranges(one.file)

    def count(self, word: str) -> int:
        return sum(word in request.path for request in self.requests)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._talk(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    first, *lines = head.splitlines()
                    pairs = (line.partition(": ") for line in lines if line)
                    method, path, _ = first.split(" ")
                    request = Request(path, {name.lower(): value for name, _, value in pairs}, method)
                    await reader.readexactly(int(request.headers.get("content-length", "0")))
                    self.requests.append(request)
                    connection = Connection(request, writer)
                    await self.answers.get(request.path, self.default)(connection)
                    if connection.closed:
                        return
            finally:
                writer.close()
