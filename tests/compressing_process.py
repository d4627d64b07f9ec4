"""A process of its own that downloads a NAR through `CompressedNars`, with several clients at once.

`compressing_process.py DIRECTORY NAR CLIENTS [hold]` waits for a line, then prints, for each client, the SHA-256 of
what it received. With `hold` the dump stands still half-way, `half` is printed, and the process waits to be killed.
"""

import asyncio
import hashlib
import sys
from pathlib import Path

from blob_readers import read_all
from nar_source import FileNar, compressed, storage_in


async def main(directory: str, nar: str, clients: str, hold: str | None = None) -> None:
    inner = FileNar(Path(nar))
    if hold:
        inner.gate.clear()
    async with storage_in(Path(directory)) as storage, compressed(inner, storage) as source:

        async def client() -> str:
            download = await source.nar(inner.url)
            assert download is not None
            with download:
                return hashlib.sha256(await read_all(download.pieces(0, None))).hexdigest()

        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        running = [asyncio.create_task(client()) for _ in range(int(clients))]
        if hold:
            await asyncio.to_thread(inner.half.wait)
            print("half", flush=True)
        for digest in await asyncio.gather(*running):
            print(digest, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
