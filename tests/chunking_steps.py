"""A process that makes chunks, collects packs, or is pushed a recipe, and kills itself at a step.

A step is a change on the disk, right before it, or a transaction that writes, before and after it. When there is no
step of that number, all is done; then the number of steps is written down.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from harmonia_py.cache.access import Principal
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.chunks.pack_collector import PacksCollected
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.push.publishing import PushOrder
from harmonia_py.wiring.cache_keys import CacheKeys
from harmonia_py.wiring.collecting import pushed_housekeeping
from harmonia_py.wiring.pushing import PushNode

_CHANGES: Final = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.setxattr"}
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_DAY: Final = 86_400


class Steps:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, number: int) -> None:
        self.taken = 0
        self._number = number
        self._lock = threading.Lock()

    def take(self) -> None:
        with self._lock:
            self.taken += 1
            if self.taken == self._number:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)  # the signal comes before this returns

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """As in `sys.addaudithook`."""
        if event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            self.take()

    def around(self, write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*arguments: Any, **named: Any) -> Any:
            self.take()
            answer = await write(*arguments, **named)
            self.take()
            return answer

        return counted


async def _make(catalog: SqlCatalog, node: PushNode) -> None:
    row = await catalog.caches.find(CacheName("team"))
    assert row is not None
    due = await catalog.chunks.due(row.id, [row.id], Timestamp(2**40), None, 1000)
    packer = node.chunking.packer(node.open_blob)
    for file in due.files:
        await packer.pack(file)
    await packer.flush()
    await packer.close()


async def _collect(catalog: SqlCatalog, node: PushNode) -> None:
    while await node.chunking.pack_collector().run() != PacksCollected():
        pass
    house = pushed_housekeeping(node, CacheKeys(catalog.keys), Metrics.alone(), clock=lambda: time.time() + 9 * _DAY)
    await house.look()


async def _take_recipe(directory: Path, catalog: SqlCatalog, node: PushNode) -> None:
    row = await catalog.caches.find(CacheName("team"))
    assert row is not None
    pushes = node.caches.pushes_of(node.caches.cache_of(row))
    assert pushes is not None
    assert pushes.recipes is not None
    pushed = json.loads((directory / "pushed.json").read_text())
    path, chunks = StorePath(pushed["path"]), bytes.fromhex(pushed["chunks"])
    session = await pushes.sessions.begin(Principal("token pusher"))
    bases = (await pushes.recipes.bases(session, [path.name]))[path.name]

    async def body() -> AsyncIterator[bytes]:
        yield chunks
        yield bytes.fromhex(pushed["recipe"])

    file = await pushes.recipes.receive(session, Hash.parse(pushed["nar_hash"]), len(chunks), body(), bases)
    assert file is not None
    narinfo = pushed["narinfo"].replace("<file>", file.file_hash.nix32)
    await pushes.publish(session, path.hash_part, narinfo.encode(), PushOrder.ANY)


async def _run(directory: Path, work: str, number: int) -> int:
    database = await SqliteDatabase.open(directory / "catalog.sqlite")
    catalog = SqlCatalog(database)
    async with PushNode(directory / "pushed", catalog, StoreDir("/nix/store"), Metrics.alone()) as node:
        steps = Steps(number)
        setattr(database, "write", steps.around(database.write))  # noqa: B010  # it has a type variable
        sys.addaudithook(steps.audit)
        async with database.collecting(10.0) as is_ours:
            assert is_ours
            if work == "make":
                await _make(catalog, node)
        if work == "recipe":
            await _take_recipe(directory, catalog, node)
        if work == "collect":
            await _collect(catalog, node)
        taken = steps.taken
    await catalog.aclose()
    return taken


def run(directory: Path, work: str, number: int, told: Path) -> None:
    """Do `work` (make, collect, recipe) in a directory, and die at a step; else write the number of steps."""
    told.write_text(str(asyncio.run(_run(directory, work, number))))
