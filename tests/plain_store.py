"""A store of plain files whose metadata is a dictionary, behind the port: what is valid is up to the test.

store = PlainStore(tmp_path)                    # files in store.real; or with a store dir that is elsewhere
path = store.add("site", Folder({…}))           # a valid StorePath; trees as in trees.py
path = store.add("site", Folder({…}), valid=False)
path = store.add("site", Folder({…}), references=(other,), deriver=derivation)
async with store.site() as site:                # an HTTP server on 127.0.0.1 that serves it
    answer = await site.get(f"/serve/{path.hash_part}/")    # Answer(status, headers, body); the target is sent as it is
"""

import asyncio
import http.client
import io
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from trees import Tree, nar, write

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.caches import Caches
from harmonia_py.cache.checks import Check
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo, sorted_references
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.store.files.store_files import StoreFiles
from harmonia_py.store.index.debuginfo import StoreDebugFiles
from harmonia_py.store.index.explore import StoreExplorer
from harmonia_py.store.local import LocalStore
from harmonia_py.web.server import serve
from harmonia_py.web.state import Serving, ServingSettings

TIME_LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    body: bytes


class Site:
    """A client of one server; every request has a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def get(self, target: str | bytes, **headers: str) -> Answer:
        return await self.request("GET", target, headers)

    async def request(self, method: str, target: str | bytes, headers: Mapping[str, str] | None = None) -> Answer:
        if isinstance(target, str):
            target = target.encode()
        sent = {"Host": "cache.example", "Connection": "close"}
        sent |= {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        lines = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in sent.items())
        return await self.raw(method, b"%s %s HTTP/1.1\r\n%s\r\n" % (method.encode(), target, lines))

    async def raw(self, method: str, request: bytes) -> Answer:
        async with asyncio.timeout(TIME_LIMIT):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(request)
                data = await reader.read()
            finally:
                writer.close()
                await writer.wait_closed()
        response = http.client.HTTPResponse(_Bytes(data), method=method)  # type: ignore[arg-type]
        response.begin()
        return Answer(response.status, response.headers, response.read())


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


class PlainStore:
    """A `StoreMetadata`; see the module's docstring."""

    def __init__(self, root: Path, store_dir: str | None = None) -> None:
        self.real = root / "store"
        self.real.mkdir()
        self.store_dir = StoreDir.parse(store_dir or str(self.real))
        self.infos: dict[HashPart, PathInfo] = {}
        self.asked: list[HashPart] = []
        self.checks: list[Check] = []
        self.realisations: dict[DrvOutput, Realisation] = {}

    def add(
        self,
        name: str,
        tree: Tree,
        *,
        valid: bool = True,
        references: tuple[StorePath, ...] = (),
        deriver: StorePath | None = None,
    ) -> StorePath:
        store_path = StorePath.parse(f"{Hash.of(name.encode()).nix32[:32]}-{name}")
        write(tree, self.real / store_path)
        data = nar(tree)
        info = PathInfo(
            store_path=store_path,
            nar_hash=Hash.of(data),
            nar_size=len(data),
            references=sorted_references(references),
            deriver=deriver,
        )
        if valid:
            self.infos[store_path.hash_part] = info
        return store_path

    def full(self, store_path: StorePath) -> bytes:
        return self.store_dir.join(store_path).encode()

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        self.asked.append(hash_part)
        return self.infos.get(hash_part)

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        return self.realisations.get(output)

    async def all_paths(self) -> Sequence[StorePath]:
        return [info.store_path for info in self.infos.values()]

    async def referrers(self, store_path: StorePath) -> Sequence[StorePath]:
        return [info.store_path for info in self.infos.values() if store_path in info.references]

    async def aclose(self) -> None:
        pass

    @asynccontextmanager
    async def site(
        self, *, show_files: bool = True, secret_keys: Sequence[SecretKey] = (), base_url: str | None = None
    ) -> AsyncIterator[Site]:
        explorer = StoreExplorer(self, self.real)
        files = StoreFiles(metadata=self, store_dir=self.store_dir, real_store=self.real)
        debug_files = StoreDebugFiles(self, self.real)
        local = LocalStore(metadata=self, roots=None, real_store=self.real, log_directory=self.real / "log")
        cache = BinaryCache(
            cache_info=CacheInfo(self.store_dir, want_mass_query=True, priority=30),
            sources=[local],
            secret_keys=secret_keys,
            files=files if show_files else None,
            debug_files=debug_files,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)  # as those of `server/listen.py`: connections are accepted until there are no more
        try:
            async with serve(
                Serving(Caches(cache, explorer=explorer), ServingSettings(base_url=base_url, checks=self.checks)),
                [listener],
                access_log=None,
                shutdown_timeout=1.0,
            ):
                yield Site(listener.getsockname()[1])
        finally:
            listener.close()
            files.close()
            local.close()
            await explorer.aclose()
            await debug_files.aclose()
