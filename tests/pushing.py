"""A server of this process that can be pushed to, with real files, a real catalog, and clients that are real.

    async with pushed_to(tmp_path, lab.store_dir) as server:     # PushServer; the cache is called `team`
        await server.copy(lab, lab.closure.top)                  # `nix copy --to …/team/push/r1`
        await server.copy(lab, path, run="r2", compression="zstd", **{"write-nar-listing": "1"})
        await server.substitute(lab, "client", path)             # Client: an empty store that has it now
        answer = await server.put("/nar/x.nar", data)            # Answer; below the push URL of `team`
        answer = await server.get("/x.narinfo", token="reader")  # of the cache `team`
        server.seen                                              # ["PUT /nar/x.nar 200", …], below the push URL

Tokens are `pusher`, which may read and push, `reader`, `writer`, which may push, `pinner`, which may read and pin,
`cleaner`, which may read and delete, `stranger`, which may read and push in another cache, and `promoter`, which may
read and push in both.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import backing
from catalogs import open_sqlite
from lab import Client, Lab
from serving import TIME_LIMIT, Answer, FakeSource, read_answer

from harmonia_py.cache.access import Authenticator, Generation, Principal, grants_of
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.cache.caches import Caches, NamedCache
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.cache_changes import CacheChanges
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.postgresql.connections import Address
from harmonia_py.database.postgresql.database import PostgresDatabase
from harmonia_py.database.transaction import Database, Topic
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.storage.s3.settings import S3Settings
from harmonia_py.web.admission.access_log import AccessLog
from harmonia_py.web.server import serve
from harmonia_py.web.state import Serving, ServingSettings
from harmonia_py.wiring.cache_keys import CacheKeys
from harmonia_py.wiring.pushing import PushNode

TEAM: Final = CacheName("team")
OTHER: Final = CacheName("other")


class Tokens:
    """An `Authenticator` of three tokens."""

    _grants: Final = {
        "pusher": grants_of(["read", "push"], ["team"]),
        "reader": grants_of(["read"], ["team"]),
        "writer": grants_of(["push"], ["team"]),
        "stranger": grants_of(["read", "push"], ["other"]),
        "promoter": grants_of(["read", "push"], ["team", "other"]),
        "pinner": grants_of(["read", "pin"], ["team"]),
        "cleaner": grants_of(["read", "delete"], ["team"]),
    }

    def takes(self, _token: str) -> bool:
        return True

    async def principal(self, token: str) -> Principal | None:
        grants = self._grants.get(token)
        return None if grants is None else Principal(f"token {token}", grants)


@dataclass
class PushServer:
    node: PushNode
    catalog: SqlCatalog
    port: int
    directory: Path
    log: list[str]
    access_log: AccessLog
    metrics: Metrics

    @property
    def seen(self) -> list[str]:
        """Method, place below the push URL, and status of every request to it so far."""
        self.access_log.flush()
        entries = [json.loads(line) for line in "".join(self.log).splitlines()]
        prefix = "/team/push"
        return [
            f"{entry['method']} {entry['path'].removeprefix(prefix)} {entry['status']}"
            for entry in entries
            if entry["path"].startswith(prefix)
        ]

    def url(self, token: str, place: str = "") -> str:
        return f"http://x:{token}@127.0.0.1:{self.port}/team{place}"

    async def copy(
        self,
        lab: Lab,
        *paths: StorePath,
        run: str = "r1",
        token: str = "pusher",
        check: bool = True,
        options: tuple[str, ...] = (),
        **settings: str,
    ) -> str:
        """Push with `nix copy`; what it printed to its error output."""
        query = "&".join(f"{name.replace('_', '-')}={value}" for name, value in settings.items())
        url = self.url(token, f"/push/{run}" + (f"?{query}" if query else ""))
        command = ["nix", "copy", *options, "--to", url, *(lab.full(path) for path in paths)]
        done = await asyncio.to_thread(lab.run, *command, check=check)
        return done.stderr.decode()

    async def substitute(self, lab: Lab, name: str, *paths: StorePath, token: str = "reader") -> Client:
        client = lab.client(name)
        options = ["--option", "substituters", self.url(token), "--option", "require-sigs", "false"]
        await asyncio.to_thread(client.nix_store, "--realise", *map(lab.full, paths), *options)
        return client

    async def put(
        self, place: str, body: bytes, headers: Mapping[str, str] | None = None, *, token: str = "pusher", run: str = ""
    ) -> Answer:
        target = f"/team/push{f'/{run}' if run else ''}{place}"
        return await self.request("PUT", target, body, headers, token=token)

    async def get(self, place: str, *, token: str = "reader", method: str = "GET") -> Answer:
        return await self.request(method, f"/team{place}", token=token)

    async def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        token: str | None = "pusher",
    ) -> Answer:
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"Authorization: Bearer {token}"] if token is not None else []
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None and "Content-Length" not in (headers or {}):
            lines.append(f"Content-Length: {len(body)}")
        async with asyncio.timeout(TIME_LIMIT):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
                return await read_answer(reader, method)
            finally:
                writer.close()


async def _database(root: Path) -> Database:
    if backing.IN_POSTGRESQL:
        return await PostgresDatabase.open(Address(backing.database(root)))
    return await open_sqlite(root / "catalog.sqlite")


@asynccontextmanager
async def pushed_to(
    tmp_path: Path,
    store_dir: StoreDir,
    settings: CacheSettings | None = None,
    clock: Callable[[], float] = time.time,
    *,
    attic: Authenticator | None = None,
    s3: S3Settings | None = None,
) -> AsyncIterator[PushServer]:
    """A server with the cache `team`. `attic` knows the tokens of Attic's clients; `s3` is a bucket, if any."""
    directory = kept = tmp_path / "pushed"
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    metrics = Metrics.alone()
    async with AsyncExitStack() as stack:
        stack.enter_context(sock)
        catalog = SqlCatalog(await _database(tmp_path))
        stack.push_async_callback(catalog.aclose)
        if s3 is None and backing.IN_BUCKET:
            s3, kept = backing.bucket(tmp_path), backing.directory(tmp_path)
        node = await stack.enter_async_context(PushNode(directory, catalog, store_dir, metrics, clock=clock, s3=s3))

        keys = CacheKeys(catalog.keys)

        async def find(name: CacheName) -> NamedCache | None:
            row = await catalog.caches.find(name)
            if row is None:
                return None
            return node.caches.cache_of(row, keys=await keys.of(row), usage=CacheUsage.on(metrics, name))

        for name in (TEAM, OTHER):
            if await catalog.caches.find(name) is None:
                given = settings if settings is not None and name == TEAM else CacheSettings()
                await catalog.caches.create(name, given, declared=False, now=node.now())
        default = BinaryCache(
            cache_info=CacheInfo(store_dir, want_mass_query=True, priority=30), sources=[FakeSource()], secret_keys=()
        )
        serving = Serving(
            Caches(default, public=False, find=find),
            ServingSettings(
                authenticators=[Tokens()] if attic is None else [attic, Tokens()],
                attic=None
                if attic is None
                else lambda: CacheChanges(catalog.caches, catalog.keys, catalog.audit, encryption=None),
            ),
            Generation(catalog.database.watch(Topic.ACCESS)),
            pushes_of=node.caches.pushes_of,
            administration_of=node.caches.administration_of,
        )
        lines: list[str] = []
        access_log = AccessLog(json_lines=True, write=lines.append)
        async with serve(serving, [sock], access_log=access_log, metrics=metrics, shutdown_timeout=1.0):
            yield PushServer(node, catalog, sock.getsockname()[1], kept, lines, access_log, metrics)
