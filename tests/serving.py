"""The real web server of this process on a real socket, over a source made of bytes.

    async with Served(source) as served:                # FakeSource(), behind the port; starts and ends with the block
        answer = await served.get("/health")            # Answer(status, headers, body)
        answer = await served.request("HEAD", path, {"Range": "bytes=0-9"})
        reader, writer = await served.connect()         # for requests that no client library makes
        data = await served.send(b"GET / HTTP/1.0\r\n\r\n")  # everything until the server closes
        served.access                                   # lines of the access log

The loop that serves is the test's own, so that a test can look at its tasks.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPMessage, parse_headers
from io import BytesIO
from typing import Final, Self
from weakref import WeakSet

from harmonia_py.cache.access import Generation
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.caches import Caches, FindCache
from harmonia_py.cache.found import LOCAL, Found
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download, Piece
from harmonia_py.cache.tokens import Tokens
from harmonia_py.cache.validity import Validity
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.web.admission.access_log import AccessLog
from harmonia_py.web.admission.clients import Clients
from harmonia_py.web.admission.limits import Limits
from harmonia_py.web.server import serve
from harmonia_py.web.state import Serving, ServingSettings

TIME_LIMIT: Final = 30.0
_LAG_SECONDS: Final = 0.05

PATH: Final = StorePath.parse("26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1")
ABSENT: Final = HashPart.parse("0" * 32)
DRV_OUTPUT: Final = DrvOutput.parse("sha256:" + "ab" * 32 + "!out")
LOG_NAME: Final = StorePath.parse("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-hello.drv")


# Of the same few megabytes again and again.
_hash_of = lru_cache(Hash.of)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes


@dataclass
class FakeSource:
    """One store path; what its NAR, listing and log are made of can be replaced.

    Attributes:
        asked: what was asked for, in order.
        validity: how long its narinfo is right.
        error: raised instead of an answer.
        opened, closed, released: how many times a generator was begun and closed, and a download released.
    """

    nar_bytes: bytes = b"n" * 100
    listing_bytes: bytes = b'{"version":1}'
    log_bytes: bytes = b"line\n"
    unknown_size: bool = False
    pieces: Callable[[int, int | None], Iterator[Piece]] | None = None
    validity: Validity | None = None
    error: Exception | None = None
    asked: list[str] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    released: int = 0

    def _note(self, what: str) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        self._note(f"narinfo {hash_part}")
        if hash_part != PATH.hash_part:
            return None
        nar_hash = _hash_of(self.nar_bytes)
        narinfo = NarInfo(
            path_info=PathInfo(store_path=PATH, nar_hash=nar_hash, nar_size=len(self.nar_bytes) or 1),
            url=str(NarUrl(hash_part, nar_hash, "none")),
            compression="none",
            file_hash=nar_hash,
            file_size=len(self.nar_bytes),
        )
        return Found(narinfo, LOCAL, self.validity)

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:  # noqa: ARG002  # the port's signature
        self._note(f"nar {url}")
        if url.hash_part != PATH.hash_part or url.nar_hash not in {None, _hash_of(self.nar_bytes)}:
            return None
        return self._download(self.nar_bytes, None if self.unknown_size else len(self.nar_bytes))

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        self._note(f"{kind} {name}")
        if kind is DocumentKind.LISTING:
            return self._download(self.listing_bytes, len(self.listing_bytes)) if name == PATH.hash_part else None
        # Compressed on disk, so its size is known only at the end.
        return self._download(self.log_bytes, None) if name in (LOG_NAME, LOG_NAME.hash_part) else None

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        self._note(f"realisation {output}")
        return Realisation(id=output, out_path=PATH) if output == DRV_OUTPUT else None

    def _download(self, data: bytes, size: int | None) -> Download:
        def pieces(start: int, stop: int | None) -> Iterator[Piece]:
            self.opened += 1
            try:
                if self.pieces is not None:
                    yield from self.pieces(start, stop)
                else:
                    yield data[start:stop]
            finally:
                self.closed += 1

        return Download(size=size, etag=_hash_of(data).nix32, pieces=pieces, release=self._release)

    def _release(self) -> None:
        self.released += 1


class Served:
    def __init__(
        self,
        source: FakeSource,
        *,
        secret_keys: Sequence[SecretKey] = (),
        tls: ssl.SSLContext | None = None,
        json_lines: bool = False,
        stall_timeout: float = TIME_LIMIT,
        keepalive_timeout: float = TIME_LIMIT,
        limits: Limits | None = None,
        clients: Clients | None = None,
        settings: ServingSettings | None = None,
        tokens: Tokens | None = None,
        others: FindCache | None = None,
        generation: Generation | None = None,
        shutdown_timeout: float = 1.0,
        lacks: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.source = source
        self.cache = BinaryCache(
            cache_info=CacheInfo(StoreDir("/nix/store"), want_mass_query=True, priority=30),
            sources=[source],
            secret_keys=secret_keys,
            surely_lacks=lacks,
        )
        authenticators = () if tokens is None else (tokens,)
        self.serving = Serving(
            Caches(self.cache, public=tokens is None, find=others),
            settings or ServingSettings(authenticators=authenticators),
            generation,
        )
        self.metrics = Metrics.alone()
        self.access: list[str] = []
        self._tls = tls
        self._limits = limits or Limits(keepalive_timeout=keepalive_timeout, stall_timeout=stall_timeout, workers=1)
        self._clients = clients
        self._shutdown_timeout = shutdown_timeout
        self._log = AccessLog(json_lines=json_lines, write=self.access.append)
        self._stack = AsyncExitStack()
        self._writers: WeakSet[asyncio.StreamWriter] = WeakSet()

    async def __aenter__(self) -> Self:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        await self._stack.enter_async_context(
            serve(
                self.serving,
                [sock],
                tls=self._tls,
                access_log=self._log,
                metrics=self.metrics,
                limits=self._limits,
                clients=self._clients,
                shutdown_timeout=self._shutdown_timeout,
            )
        )
        return self

    async def __aexit__(self, error: type[BaseException] | None = None, *_: object) -> None:
        if error is not None:
            # The test did not come to the lines that close its clients: the next one would hear of them.
            for writer in self._writers:
                writer.close()
        await self._stack.aclose()

    def access_lines(self) -> list[str]:
        self._log.flush()
        return "".join(self.access).splitlines()

    async def ask(self, target: str, *lines: str) -> Answer:
        """Ask as Nix does: without a header that sends the request the slow way."""
        reader, writer = await self.connect()
        try:
            writer.write("\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode())
            return await read_answer(reader)
        finally:
            writer.close()

    async def connect(
        self, receive_buffer: int | None = None, *, source: str = "127.0.0.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection from the address `source`, of which there are as many as 127.0.0.0/8 has."""
        sock = socket.socket()
        sock.bind((source, 0))
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        # A small limit: what a test does not read stays in the kernel, as with a client that lags.
        reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 2**16)
        self._writers.add(writer)
        return reader, writer

    async def send(self, data: bytes) -> bytes:
        """What the server answers to these bytes, until it closes."""
        async with asyncio.timeout(TIME_LIMIT):
            reader, writer = await self.connect()
            try:
                writer.write(data)
                return await reader.read()
            finally:
                writer.close()

    async def request(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        async with asyncio.timeout(TIME_LIMIT):
            reader, writer = await self.connect()
            try:
                writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
                return await read_answer(reader, method)
            finally:
                writer.close()

    async def get(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.request("GET", target, headers)


async def read_answer(reader: asyncio.StreamReader, method: str = "GET") -> Answer:
    """One answer; IncompleteReadError when it is cut."""
    async with asyncio.timeout(TIME_LIMIT):
        head = await reader.readuntil(b"\r\n\r\n")
        status_line, _, rest = head.partition(b"\r\n")
        headers = parse_headers(BytesIO(rest))
        status = int(status_line.split()[1])
        if method == "HEAD" or status in {100, 204, 304}:
            return Answer(status, headers, b"")
        if headers["Transfer-Encoding"] == "chunked":
            return Answer(status, headers, await _read_chunks(reader))
        if "Content-Length" in headers:
            return Answer(status, headers, await reader.readexactly(int(headers["Content-Length"])))
        return Answer(status, headers, await reader.read())


async def take_slowly(reader: asyncio.StreamReader, seconds: float) -> bytes:
    """What a client takes in that time, a little more than 300 KB in each second."""
    received = b""
    for _ in range(round(seconds / _LAG_SECONDS)):
        data = await reader.read(16 * 1024)
        assert data, f"cut after {len(received)} bytes"
        received += data
        await asyncio.sleep(_LAG_SECONDS)  # this is the lag that is tested
    return received


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = []
    while True:
        size = int((await reader.readuntil(b"\r\n"))[:-2], 16)
        body.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
        if size == 0:
            return b"".join(body)
