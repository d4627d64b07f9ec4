"""What catalogs say of their storages: files that are lost, not read for long, in chunks, and whose the bucket is."""

import asyncio
import time
from typing import Final

from rich.filesize import decimal

from harmonia_py.catalog.caches import iso
from harmonia_py.catalog.file_checks import Health
from harmonia_py.chunks.work import ChunkFigures, LastLook
from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.commands.shared.progress import count
from harmonia_py.config.settings import Config
from harmonia_py.errors import StorageError

# Beyond its period the scrub is late, but a service that was off for a while catches up.
_LATE: Final = 2.0
_DAY: Final = 86_400
# There is a pass each minute, and one that ends is noted within ten.
_LATE_SECONDS: Final = 3600


async def look_at(config: Config) -> list[Finding]:
    """A finding for each storage that has a catalog."""
    from harmonia_py.wiring.storages import open_storage, storages_of  # noqa: PLC0415  # it imports what storage needs

    findings = []
    for place in await asyncio.to_thread(storages_of, config):
        if await asyncio.to_thread(place.has_catalog):
            async with open_storage(config, place) as storage:
                catalog = storage.catalog
                findings.append(_judge(place.name, await catalog.file_checks.health(), config.storage.scrub_period))
                figures, last = await catalog.chunk_work.figures(), await catalog.chunk_work.last()
                if last is not None and (figures.packs or last.waiting or last.error):
                    findings.append(_judge_chunks(place.name, figures, last, time.time()))
    return findings


async def look_at_bucket(config: Config) -> list[Finding]:
    """A finding for the bucket of what is pushed; none where there is no bucket, or no catalog yet."""
    from harmonia_py.wiring.storages import open_storage, storages_of  # noqa: PLC0415  # as above

    check = "bucket"
    place = (await asyncio.to_thread(storages_of, config))[0]
    if place.bucket is None or not await asyncio.to_thread(place.has_catalog):
        return []
    async with open_storage(config, place) as storage:
        assert storage.owner is not None
        try:
            is_ours = await storage.owner.compare()
        except StorageError as error:
            return [Finding.failure(check, str(error), "until that is mended, nothing is pushed or collected")]
        if is_ours:
            return [Finding.ok(check, f"belongs to the catalog here, {await storage.catalog.identity()}")]
    what = "belongs to no catalog yet: the catalog here takes it when a server finds that the two fit"
    return [Finding.ok(check, what)]


def _judge(name: str, health: Health, period: int | None) -> Finding:
    check = "kept files"
    if health.quarantined:
        lost, hidden = count(health.quarantined, "file"), count(health.hidden, "path")
        what = f"{name}: {lost} lost; {hidden} hidden for that"
        remedy = "`harmonia-py fsck` lists them; push their paths again, or put the files back and `fsck --repair`"
        return Finding.failure(check, what, remedy)
    age = 0 if health.oldest is None else time.time() - health.oldest
    if period is not None and age > _LATE * period:
        what = f"{name}: a file was not read for {age / _DAY:.0f} days: what rots is found late"
        return Finding.warning(check, what, "let the service run, or read all with `harmonia-py fsck --hashes`")
    return Finding.ok(check, f"{name}: {health.files} files, none of them lost")


def _judge_chunks(name: str, figures: ChunkFigures, last: LastLook, now: float) -> Finding:
    check = "chunks"
    if last.failed is not None and (last.ended is None or last.failed > last.ended):
        what = f"{name}: no chunks are made, and no packs collected, since {iso(last.failed)}: {last.error}"
        return Finding.warning(check, what, "see that there is room, and what the server's log says")
    sizes = f"{decimal(figures.former_size)} in {decimal(figures.pack_size)} of packs"
    used = f", {figures.used_size / figures.pack_size:.0%} of them in use" if figures.pack_size else ""
    waiting = f"; {last.waiting} paths wait" if last.waiting else ""
    what = f"{name}: {figures.files} files are made of chunks, {sizes}{used}{waiting}"
    if last.ended is None or now - last.ended > _LATE_SECONDS:
        late = "never ended" if last.ended is None else f"last ended at {iso(last.ended)}"
        return Finding.warning(check, f"{what}; the job {late}", "see that the server runs, and what its log says")
    return Finding.ok(check, what)
