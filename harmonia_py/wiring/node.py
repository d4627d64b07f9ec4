"""`Node`: the local store, upstreams and cache of one configuration, made of the things that a process holds open."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.checks import Check
from harmonia_py.cache.explore import Explorer
from harmonia_py.cache.policy import Policy
from harmonia_py.cache.source import Source
from harmonia_py.cache.tree import DebugFiles
from harmonia_py.catalog.quota import Limits
from harmonia_py.catalog.rooms import Rooms
from harmonia_py.config.settings import Config
from harmonia_py.config.storage_tables import Room
from harmonia_py.errors import StorageError
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.signing import SecretKey
from harmonia_py.storage.probe import probe
from harmonia_py.store.damaged import DamagedPaths
from harmonia_py.store.local import LocalStore
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.wiring.caches import open_default_cache, open_policy
from harmonia_py.wiring.local_store import open_damaged_paths, open_local_store, open_metadata
from harmonia_py.wiring.opening import Opening
from harmonia_py.wiring.pools import Pools, running
from harmonia_py.wiring.store_choice import Lack, StoreChoice, Way, lack_of_store
from harmonia_py.wiring.tuning import hand_over_often, return_memory, trim_memory

# These, and what is imported inside functions here, only some configurations need: a server that keeps nothing loads no
# catalog, one without upstreams no mirror (`wiring/parts.py`).
if TYPE_CHECKING:
    from harmonia_py.catalog.caches import CacheSettings
    from harmonia_py.contents.compressed import CompressedNars
    from harmonia_py.mirror.importing import Importing
    from harmonia_py.mirror.mirror import Mirror
    from harmonia_py.mirror.upstreams import Upstreams
    from harmonia_py.oidc.tokens import IdTokens
    from harmonia_py.push.store_import import StoreImport
    from harmonia_py.wiring.kept_directory import KeptDirectory


class Node:
    """The parts of one configuration. The process holds them open: a reload makes another node from the same `Pools`.

    Attributes:
        cache: the cache at `/`.
        local: the local store, where there is one.
        metadata: knows the paths of the local store.
        damaged: store paths known to have missing or changed files.
        compressed: the local store as a source of compressed NARs, where these are offered.
        compressed_files: the directory and catalog of compressed NARs.
        mirror: the source of what upstreams have, where there are any.
        mirrored_files: the directory and catalog of what upstreams have; often the same object as `compressed_files`.
        upstreams: chooses which upstream is asked, and for how long.
        importing: adds mirrored paths to the local store, where that is configured.
        store_import: adds paths that are pushed to the cache at `/` to the local store, where that is configured.
        explorer: searches in the local store, for people.
        debug_files: finds the debug information in the paths of the local store.
        policy: decides what the cache at `/` gives out; None: everything.
        id_tokens: accepts tokens of configured issuers.
        checks: the checks of `/ready`.
    """

    def __init__(self, opening: Opening, rooms: Rooms | None) -> None:
        self.cache: BinaryCache
        self.explorer: Explorer | None
        self.debug_files: DebugFiles | None
        self.policy: Policy | None = None
        self.local: LocalStore | None = None
        self.metadata: StoreMetadata | None = None
        self.damaged: DamagedPaths | None = None
        self.compressed: CompressedNars | None = None
        self.compressed_files: KeptDirectory | None = None
        self.mirror: Mirror | None = None
        self.mirrored_files: KeptDirectory | None = None
        self.upstreams: Upstreams | None = None
        self.importing: Importing | None = None
        self.store_import: StoreImport | None = None
        self._opening = opening
        self._rooms = rooms
        self.id_tokens: IdTokens | None = None
        self.checks: list[Check] = []

    @classmethod
    async def open(
        cls,
        config: Config,
        secret_keys: Sequence[SecretKey],
        choice: StoreChoice,
        pools: Pools,
        *,
        metrics: Metrics,
        housekeeping: bool,
        rooms: Rooms | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
    ) -> Self:
        """Open a node inside the event loop that uses it, after any fork. When it fails, `pools` are as before.

        Args:
            config: describes the node.
            secret_keys: of the cache at `/`, to sign with.
            choice: the way to the local store.
            pools: things that are open already; those that this configuration does not need are closed when idle.
            metrics: the counters of this process.
            housekeeping: whether this process makes room and collects; one of all that share a directory does.
            rooms: hold all storage together to the limits of `[storage]`, in the housekeeping process.
            confirm: is called once everything is open; when it fails, so does this.
        """
        async with pools.select() as selection:
            self = cls(Opening(config, choice, selection, metrics, housekeeping), rooms)
            await self._open(secret_keys)
            if confirm is not None:
                await confirm()
            # Last: the mirror may be shared with the node before, and must stay as it was if anything above fails.
            if self.importing is not None:
                # By a reload an administrator says that nix.conf has another key, or that the store has changed.
                self.importing.reconsider()
            if self.mirror is not None:
                self.mirror.on_kept = self.importing.want if self.importing is not None else lambda _: None
        return self

    async def _open(self, secret_keys: Sequence[SecretKey]) -> None:
        opening, config, selection = self._opening, self._opening.config, self._opening.selection
        return_memory()
        hand_over_often()
        await selection.get("trim", (), running(trim_memory))
        if config.oidc:
            from harmonia_py.wiring.oidc import open_id_tokens  # noqa: PLC0415

            self.id_tokens = await open_id_tokens(config, selection)
        sources: list[Source] = []
        if opening.choice.way is not Way.NONE:
            self.metadata, check = await open_metadata(opening)
            self.checks.append(check)
        else:
            self.checks.append(Check("nix-store", partial(_do_without_store, config)))
        if config.upstream:
            sources.append(await self._open_mirror())
        self.policy = await open_policy(config, selection, self.metadata, self.mirror)
        if self.metadata is not None:
            sources.insert(0, await self._open_store(self.metadata, self.policy))
        if self.mirror is not None and self.mirrored_files is not None:
            from harmonia_py.wiring.importing import open_importing  # noqa: PLC0415

            self.importing = await open_importing(opening, self.mirror, self.mirrored_files, secret_keys)
        if config.default_cache is not None and config.default_cache.into == "store":
            from harmonia_py.wiring.importing import open_store_import  # noqa: PLC0415

            self.store_import = await open_store_import(opening, secret_keys)
        cache = await open_default_cache(self, config, selection, sources, secret_keys)
        self.cache, self.explorer, self.debug_files = cache

    async def _open_store(self, metadata: StoreMetadata, policy: Policy | None) -> Source:
        opening, config = self._opening, self._opening.config
        self.damaged = await open_damaged_paths(opening)
        local = self.local = await open_local_store(opening, metadata, policy, self.damaged)
        if config.compression == "none":
            return local
        from harmonia_py.wiring.compressed import open_compressed  # noqa: PLC0415

        self.compressed = await open_compressed(opening, local, await self._open_cache_directory())
        return self.compressed

    async def _open_mirror(self) -> Source:
        from harmonia_py.wiring.mirror import open_mirror  # noqa: PLC0415
        from harmonia_py.wiring.upstreams import open_upstreams  # noqa: PLC0415

        opening, table = self._opening, self._opening.config.mirror
        if table.directory is not None:
            directory = await self._open_directory("mirror.directory", table)
        else:
            directory = await self._open_cache_directory()
        self.mirrored_files = directory
        self.upstreams = await open_upstreams(opening.config, opening.selection, opening.metrics)
        self.mirror = await open_mirror(opening, self.upstreams, directory)
        return self.mirror

    async def _open_cache_directory(self) -> "KeptDirectory":
        """The directory of compressed NARs; the mirror uses it too, unless it has one of its own."""
        if self.compressed_files is None:
            self.compressed_files = await self._open_directory("cache.directory", self._opening.config.cache)
        return self.compressed_files

    async def _open_directory(self, key: str, table: Room) -> "KeptDirectory":
        from harmonia_py.wiring.bucket import bucket_place  # noqa: PLC0415
        from harmonia_py.wiring.kept_directory import open_kept_directory  # noqa: PLC0415
        from harmonia_py.wiring.replaceable_housekeeping import Upkeep  # noqa: PLC0415

        opening, config, directory = self._opening, self._opening.config, Path(table.directory or ".")
        upkeep = Upkeep(
            limits=Limits(max_size=table.max_bytes, min_free=table.min_free_bytes),
            store_dir=config.store_dir,
            rooms=self._rooms,
            scrub_period=config.storage.scrub_period,
            settings=_settings_of(config, directory),
        )
        self.checks.append(Check(key.replace(".", "-"), lambda: asyncio.to_thread(probe, directory)))
        return await open_kept_directory(
            opening.selection,
            key,
            directory,
            place=await asyncio.to_thread(bucket_place, config),
            metrics=opening.metrics,
            upkeep=upkeep if opening.housekeeping else None,
        )


def _settings_of(config: Config, directory: Path) -> "CacheSettings":
    """What becomes chunks in a directory: in that of a mirror, what the mirror says."""
    from harmonia_py.catalog.caches import CacheSettings  # noqa: PLC0415

    mirror = config.mirror
    if not config.upstream or directory != Path(mirror.directory or config.cache.directory or "."):
        return CacheSettings()
    return CacheSettings(deduplicate=mirror.deduplicate, deduplicate_after=mirror.deduplicate_seconds)


async def _do_without_store(config: Config) -> None:
    # Asked each time: a command may have made the first cache meanwhile.
    if await asyncio.to_thread(lack_of_store, config) is Lack.FAULT:
        raise StorageError("there is no Nix store here")
