"""A mirror in the test's own process, over the HTTP client and a directory."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from blob_readers import read_all
from fault_upstream import KEY, STORE_DIR, FaultUpstream, Package
from nar_source import kept_in, storage_in

from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.memory import Memory
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.mirror import upstream_file
from harmonia_py.mirror.mirror import Mirror, MirrorSettings
from harmonia_py.mirror.outcome import OnUnknown
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.nix.narinfo import NarUrl
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
    memory: Memory | None = None,
    **settings: Any,
) -> AsyncIterator[Mirror]:
    """One over `upstreams`, which are named `up0`, `up1` and so on; without a directory it keeps nothing."""
    async with AsyncExitStack() as stack:
        if memory is not None:
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(upstream_file, "UNPACKING", memory)
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
        asked = Upstreams(opened, budget=budget, on_unknown=OnUnknown(on_unknown), offline=offline)
        intake = await stack.enter_async_context(Intake(await stack.enter_async_context(storage_in(directory))))
        mirror = Mirror(
            asked,
            intake,
            await stack.enter_async_context(kept_in(intake.storage)),
            STORE_DIR,
            MirrorSettings(**settings),
            recodes=recode,
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
    """The file of a NAR, once it is kept."""
    data = await fetch(mirror, wanted)
    await settle(mirror)
    return data


async def settle(mirror: Mirror) -> None:
    """Wait for what goes on in the background."""
    while tasks := {*mirror._tasks, *mirror._intake._tasks}:
        await asyncio.wait(tasks)


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in (directory / "growing").iterdir()]


def kept(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "blobs").glob("*/*") if not path.name.startswith("."))


def named(directory: Path) -> set[str]:
    """The hash parts of the paths that the catalog names."""
    catalog = directory / ".catalog" / "catalog.sqlite"
    if not catalog.exists():
        return set()
    # Only for reading: the last connection that can write copies the log into the database when it is closed, and a
    # server that comes back meanwhile waits for that.
    with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)) as connection:
        return {row[0] for row in connection.execute("select hash_part from objects")}
