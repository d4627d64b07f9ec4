"""Makes chunks and collects packs over and over, until it is killed: `python chunking_process.py DIRECTORY`."""

import asyncio
import random
import sys
from pathlib import Path

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.wiring.pushing import PushNode


async def _work(directory: Path) -> None:
    catalog = SqlCatalog(await SqliteDatabase.open(directory / "catalog.sqlite"))
    row = await catalog.caches.find(CacheName("team"))
    assert row is not None
    async with PushNode(directory / "pushed", catalog, StoreDir("/nix/store"), Metrics.alone()) as node:
        print("ready", flush=True)
        while True:
            async with catalog.database.collecting(10.0) as is_ours:
                assert is_ours
                due = await catalog.chunks.due(row.id, [row.id], Timestamp(2**40), None, 1000)
                packer = node.chunking.packer(node.open_blob)
                for file in random.sample(due.files, min(3, len(due.files))):
                    await packer.pack(file)
                await packer.flush()
                await packer.close()
                await node.chunking.pack_collector().run()


if __name__ == "__main__":
    asyncio.run(_work(Path(sys.argv[1])))
