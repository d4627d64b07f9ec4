"""The bucket of `[storage] url`, and the catalog that it belongs to."""

import asyncio
from typing import Final

from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.config.settings import Config
from harmonia_py.errors import StorageError

_CHECK: Final = "bucket"


async def look_at(config: Config) -> list[Finding]:
    """A finding for the bucket of what is pushed; none where there is no bucket, or no catalog yet."""
    from harmonia_py.wiring.storages import open_storage, storages_of  # noqa: PLC0415  # it imports the database

    place = (await asyncio.to_thread(storages_of, config))[0]
    if place.bucket is None or not await asyncio.to_thread(place.has_catalog):
        return []
    async with open_storage(config, place) as storage:
        assert storage.owner is not None
        try:
            is_ours = await storage.owner.compare()
        except StorageError as error:
            return [Finding.failure(_CHECK, str(error), "until that is mended, nothing is pushed or collected")]
        if is_ours:
            return [Finding.ok(_CHECK, f"belongs to the catalog here, {await storage.catalog.identity()}")]
    what = "belongs to no catalog yet: the catalog here takes it when a server finds that the two fit"
    return [Finding.ok(_CHECK, what)]
