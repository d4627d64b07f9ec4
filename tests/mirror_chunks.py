"""A mirror whose kept files become chunks, and what looks after its directory, each when the test says so.

async with mirrored(upstream.url, directory) as world:
    await world.fetch(one)            # from the upstream, or what is kept
    await world.make_chunks()         # a pass of the job
    await world.look()                # a pass of the housekeeping
    world.disk()                      # bytes of files, by kind: {"whole": 0, "packs": 1000, "recipes": 200}
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from blob_readers import read_all
from chunking import nar_of, program
from fault_upstream import KEY, STORE_DIR, Package, package, signed
from mirrors import settle
from msgspec.structs import replace
from pushed_paths import REFERENCE
from s3_double import S3Double
from trees import nar

from harmonia_py.catalog.caches import CHUNKS, CacheSettings
from harmonia_py.catalog.collection import Collecting
from harmonia_py.catalog.collector import Collector
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.quota import Limits
from harmonia_py.catalog.replaceable_housekeeping import EvictionCounters, ReplaceableHousekeeping
from harmonia_py.catalog.rooms import Room, replaceable
from harmonia_py.catalog.scrub import Scrub, ScrubCounters
from harmonia_py.chunks.deduplication import Deduplication
from harmonia_py.chunks.pack_room import PackRoom
from harmonia_py.contents.deletion import delete_all
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import Topic, ask
from harmonia_py.metrics.board import Metrics
from harmonia_py.mirror.mirror import Mirror, MirrorSettings
from harmonia_py.mirror.outcome import OnUnknown
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.nix.store_path import StorePath
from harmonia_py.upstream.client import HttpUpstream, Place
from harmonia_py.wiring.bucket import BucketPlace, beside
from harmonia_py.wiring.chunking import Chunking
from harmonia_py.wiring.deduplicating import mirror_deduplication, mirror_packs
from harmonia_py.wiring.kept_directory import CATALOG, KeptDirectory, open_kept_directory
from harmonia_py.wiring.pools import Pools
from harmonia_py.wiring.replaceable_housekeeping import isolating, takeover_of

_USED: Final = "update objects set used_s = $2, aged_from_s = $2 where hash_part = $1"
_APART: Final = 1000


def build(number: int, *, size: int = 300_000, seed: int = 1, compression: str = "zstd") -> Package:
    """A path whose NAR has a program: builds with the same seed differ in their hash parts alone."""
    path = StorePath(f"{package(number, size=2).hash_part}-program")
    made = package(number, nar=nar(program(path, size, seed)), compression=compression)
    return signed(replace(made, path_info=replace(made.path_info, store_path=path, references=(REFERENCE,))), KEY)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + 60
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@dataclass
class Clock:
    """The clock of the housekeeping and of packs, so many seconds later than it is."""

    later: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.later


@dataclass
class World:
    """A mirror and its directory."""

    directory: Path
    kept_files: KeptDirectory
    mirror: Mirror
    catalog: SqlCatalog
    uses: LastUses
    metrics: Metrics
    packs: PackRoom
    clock: Clock
    job: Callable[[], Deduplication]
    limits: Limits = field(default_factory=Limits)
    free_bytes: Callable[[], int] = lambda: 2**60

    @property
    def chunking(self) -> Chunking:
        assert self.kept_files.chunking is not None
        return self.kept_files.chunking

    async def fetch(self, one: Package) -> bytes | None:
        """The NAR of a file, as a client gets it, once all is done in the background; None when there is none."""
        file = await self.file(one)
        return None if file is None else nar_of(file)

    async def file(self, one: Package) -> bytes | None:
        download = await self.mirror.nar(replace(one, compression="zstd").our_url)
        if download is None:
            return None
        with download:
            data = await read_all(download.pieces(0, download.size))
        assert download.size in {None, len(data)}
        await settle(self.mirror)
        # Where the catalog was slow to answer, the file is entered a while later.
        await until(lambda: self.catalog.mirrored.find(one.hash_part))
        return data

    async def fill(self, builds: Sequence[Package]) -> None:
        """Fetch them, use each later than the one before it, and make all of them chunks."""
        for number, one in enumerate(builds):
            await self.fetch(one)
            await self.used(one, number)
        await self.make_chunks()

    async def make_chunks(self) -> None:
        await self.job().look()

    async def take_over(self) -> None:
        blobs = self.kept_files.intake.storage.blobs
        assert blobs is not None
        await takeover_of(blobs, self.catalog, STORE_DIR).run()

    async def used(self, one: Package, number: int) -> None:
        """Let a path have been asked for after all those of smaller numbers, a while ago."""
        at = int(time.time()) - _APART + number
        await self.catalog.database.write(lambda: ask(_USED, one.hash_part, at), Topic.OBJECTS)

    async def scrub(self) -> int:
        """Read some files once more; returns how many were wrong."""
        blobs = self.kept_files.intake.storage.blobs
        assert blobs is not None
        counters = ScrubCounters.on(self.metrics, "mirror")
        before = counters.faults.value
        async with self.chunking.digests() as digests:
            note = isolating(blobs, self.catalog, self.metrics, "mirror")
            files = self.catalog.file_checks
            await Scrub(files, digests, note, counters=counters, period=1.0).step()
        return int(counters.faults.value - before)

    async def forget_grace(self) -> None:
        """Look a minute later: what was collected just now is deleted, also packs that readers had looked up."""
        await self.look(ahead=60.0)

    async def look(self, *, ahead: float = 0.0) -> None:
        await self.housekeeping(self.catalog.database.collecting, ahead=ahead).look()

    def housekeeping(self, collecting: Collecting, *, ahead: float = 0.0) -> ReplaceableHousekeeping:
        """The housekeeping of the directory, which looks when `collecting` says so."""
        blobs = self.kept_files.intake.storage.blobs
        assert blobs is not None

        async def free() -> int:
            return self.free_bytes()

        room = Room(
            collector=Collector(self.catalog.collection, self.catalog.garbage, lambda keys: delete_all(blobs, keys)),
            scopes=replaceable,
            sizes=self.catalog.objects,
            uses=self.uses,
            collecting=collecting,
            free_bytes=free,
            device=0,
            packs=self.packs,
        )
        counters = EvictionCounters.on(self.metrics, "mirror")
        return ReplaceableHousekeeping(room, self.limits, counters, clock=lambda: self.clock() + ahead)

    def files(self, kind: str) -> list[Path]:
        """The files of what is kept, of the kind "packs" or "recipes"."""
        return list(self.directory.rglob(f"{kind}/*"))

    def disk(self) -> Counter[str]:
        """Bytes of what is kept, by kind."""
        found: Counter[str] = Counter()
        for path in self.directory.rglob("*"):
            if path.is_file() and not path.relative_to(self.directory).parts[0].startswith("."):
                kind = next((one for one in ("packs", "recipes") if one in path.parts), "whole")
                found[kind] += path.stat().st_size
        return found


@asynccontextmanager
async def mirrored(
    url: str,
    directory: Path,
    *,
    deduplicate: str = CHUNKS,
    recode: bool = False,
    offline: bool = False,
    negative_ttl: float = 0.0,
    bucket: S3Double | None = None,
    **more: Any,
) -> AsyncIterator[World]:
    """A mirror of an upstream. Each time it makes chunks it looks at all that is kept, as after a start."""
    async with AsyncExitStack() as stack:
        pools, place = Pools(), None if bucket is None else BucketPlace(bucket.settings(), None)
        stack.push_async_callback(pools.aclose)
        metrics = Metrics.alone()
        async with pools.select() as selection:
            kept_files = await open_kept_directory(
                selection, "mirror.directory", directory, place=place, metrics=metrics, upkeep=None
            )
        client = HttpUpstream(Place(url=url, stall_timeout=5.0), name="up0", priority=40, public_keys=(KEY.public_key,))
        upstreams = Upstreams(
            [await stack.enter_async_context(client)], budget=2.0, on_unknown=OnUnknown("auto"), offline=offline
        )
        mirror = Mirror(
            upstreams, kept_files.intake, kept_files.kept, STORE_DIR, MirrorSettings(negative_ttl=negative_ttl, **more),
            recodes=recode,
        )  # fmt: skip
        await stack.enter_async_context(mirror)
        # As the process that looks after the directory has it.
        catalog = SqlCatalog(await SqliteDatabase.open(beside(directory, place) / CATALOG))
        stack.push_async_callback(catalog.aclose)
        assert kept_files.chunking is not None
        uses, clock = LastUses(catalog.objects), Clock()
        packs = mirror_packs(catalog, kept_files.chunking, metrics, "mirror", clock=clock)
        job = partial(
            mirror_deduplication, catalog, kept_files.chunking, packs,
            uses=uses, settings=CacheSettings(deduplicate=deduplicate, deduplicate_after=0),
            metrics=metrics, name="mirror",
            clock=lambda: time.time() + _APART,
        )  # fmt: skip
        yield World(directory, kept_files, mirror, catalog, uses, metrics, packs, clock, job)
