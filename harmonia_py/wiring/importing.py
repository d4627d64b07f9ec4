"""Imports into the local store through the nix-daemon, put together: of mirrored paths, and of paths pushed to `/`."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from harmonia_py.cache.source import Download
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.mirror.import_metrics import ImportCounters
from harmonia_py.mirror.importing import Importing
from harmonia_py.mirror.mirror import Mirror
from harmonia_py.nix.signing import SecretKey
from harmonia_py.store.daemon.importing import DaemonWriter, DaemonWriters
from harmonia_py.wiring.local_store import daemon_settings, make_writer, open_temp_roots
from harmonia_py.wiring.opening import Opening
from harmonia_py.wiring.pools import owned
from harmonia_py.wiring.store_choice import Way

if TYPE_CHECKING:  # a server that takes no pushes imports nothing of them
    from harmonia_py.push.store_import import StoreImport
    from harmonia_py.wiring.kept_directory import KeptDirectory

_log = logging.getLogger(__name__)

# Paths that wait for their import when a reload comes are added within this time, or when they are asked for again.
_IMPORT_SECONDS: Final = 600.0


async def open_importing(
    opening: Opening, mirror: Mirror, mirrored: "KeptDirectory", secret_keys: Sequence[SecretKey]
) -> Importing | None:
    """The import of mirrored paths, if `[mirror] import` wants it and there is a nix-daemon; else None."""
    config, metrics = opening.config, opening.metrics
    if not config.mirror.import_ or mirrored.intake.storage.blobs is None:
        return None
    if opening.choice.way is not Way.DAEMON:
        if opening.housekeeping:
            _log.warning("mirror.import: nothing is imported, as no nix-daemon is asked")
        return None
    writer = await opening.selection.get(
        "store writer", daemon_settings(config), owned(lambda: make_writer(config), DaemonWriter.aclose)
    )

    async def made(key: BlobKey) -> Download | None:
        return await mirrored.kept.made(await mirrored.kept.find(key))

    def make() -> Importing:
        return Importing(
            mirrored.intake.storage,
            mirror.index,
            writer,
            made=made,
            store_dir=config.store_dir,
            secret_keys=secret_keys,
            counters=ImportCounters.on(metrics),
        )

    settings = (mirrored, mirror, writer, config.store_dir, tuple(secret_keys))
    return await opening.selection.get("importing", settings, owned(make, Importing.aclose), idle=_until_idle)


async def open_store_import(opening: Opening, secret_keys: Sequence[SecretKey]) -> "StoreImport | None":
    """The import of paths pushed to `/`, if `[caches.default] into` wants it and there is a nix-daemon; else None."""
    config, selection = opening.config, opening.selection
    if config.default_cache is None or config.default_cache.into != "store":
        return None
    if opening.choice.way is not Way.DAEMON:
        if opening.housekeeping:
            _log.warning("caches.default.into: pushes are refused, as no nix-daemon is asked")
        return None
    from harmonia_py.push.store_import import HeldPaths, StoreImport  # noqa: PLC0415  # as above

    def make_writers() -> DaemonWriters:
        return DaemonWriters(lambda: make_writer(config), config.daemon_connections)

    daemon = (*daemon_settings(config), config.daemon_connections)
    writers = await selection.get("store writers", daemon, owned(make_writers, DaemonWriters.aclose))
    roots = await open_temp_roots(opening, "roots of pushes")

    def make() -> StoreImport:
        held = HeldPaths(roots.acquire)
        return StoreImport(writers, held, store_dir=config.store_dir, secret_keys=secret_keys)

    settings = (writers, roots, tuple(secret_keys))
    return await selection.get("store import", settings, owned(make, StoreImport.aclose), idle=_until_idle)


async def _until_idle(adding: "Importing | StoreImport") -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(adding.idle(), _IMPORT_SECONDS)
