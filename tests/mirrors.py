"""A mirror in the test's own process, over the HTTP client and a directory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from blob_readers import read_all
from fault_upstream import KEY, STORE_DIR, FaultUpstream, Package

from harmonia_py.cache.asking import OnUnknown, Panel
from harmonia_py.cache.kept import KeptFiles
from harmonia_py.cache.mirror import Mirror, MirrorSettings
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.slices import read_slice
from harmonia_py.upstream.client import HttpUpstream, Place


@asynccontextmanager
async def mirror_of(
    *upstreams: FaultUpstream | str,
    directory: Path | None,
    priorities: tuple[int, ...] = (),
    budget: float = 2.0,
    on_unknown: str = "auto",
    offline: bool = False,
    stall_timeout: float = 5.0,
    recode: bool = False,
    texts: SharedTexts | None = None,
    **settings: Any,
) -> AsyncIterator[Mirror]:
    """One over `upstreams`, which are named `up0`, `up1` and so on; without a directory it keeps nothing."""
    async with AsyncExitStack() as stack:
        opened = []
        for number, upstream in enumerate(upstreams):
            url = upstream if isinstance(upstream, str) else upstream.url
            client = HttpUpstream(
                Place(url=url, stall_timeout=stall_timeout),
                name=f"up{number}",
                priority=priorities[number] if priorities else 40,
                public_keys=(KEY.public_key,),
            )
            opened.append(await stack.enter_async_context(client))
        panel = Panel(opened, budget=budget, on_unknown=OnUnknown(on_unknown), offline=offline)
        blobs = await stack.enter_async_context(DiskBlobs(directory)) if directory is not None else None
        mirror = Mirror(
            panel,
            KeptFiles(blobs),
            STORE_DIR,
            MirrorSettings(**settings),
            recode=read_slice if recode else None,
            texts=texts,
        )
        yield await stack.enter_async_context(mirror)


async def fetch(mirror: Mirror, wanted: Package | NarUrl) -> bytes | None:
    """The file of a NAR, as a client gets it; None when there is none."""
    download = await mirror.nar(wanted.our_url if isinstance(wanted, Package) else wanted)
    if download is None:
        return None
    with download:
        data = await read_all(download.pieces(0, download.size))
        assert download.size in (None, len(data))
        return data


async def fetch_kept(mirror: Mirror, wanted: Package) -> bytes | None:
    """The same, once it is kept."""
    data = await fetch(mirror, wanted)
    await settle(mirror)
    return data


async def settle(mirror: Mirror) -> None:
    """Wait for what goes on in the background."""
    while tasks := {*mirror._tasks, *mirror._files._tasks.values()}:
        await asyncio.wait(tasks)


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in (directory / "growing").iterdir()]


def kept(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "blobs").glob("*/*") if not path.name.startswith("."))
