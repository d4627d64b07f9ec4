"""The composition root: the one module that knows every other, and how a configuration becomes a cache that works."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final, Self

from harmonia_py.cache.asking import Panel
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.checks import Check
from harmonia_py.cache.compressed import CompressedNars
from harmonia_py.cache.compressed_figures import CompressedCounters
from harmonia_py.cache.compressing import Compressing
from harmonia_py.cache.gc import EvictionCounters, Limits, keep_within_limits
from harmonia_py.cache.import_figures import ImportCounters
from harmonia_py.cache.importing import Importing
from harmonia_py.cache.kept import KeptFiles, unit_of
from harmonia_py.cache.lasting import Lasting
from harmonia_py.cache.mirror import Mirror
from harmonia_py.cache.mirror_figures import MirrorCounters
from harmonia_py.cache.policy import BuiltHere, ClosureOf, Policy, SignedBy
from harmonia_py.cache.source import Source
from harmonia_py.cache.zstd import Zstd
from harmonia_py.config import Config
from harmonia_py.errors import StorageError
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.probe import probe
from harmonia_py.storage.slices import read_slice
from harmonia_py.store.allowed import AllowedPaths
from harmonia_py.store.daemon import DaemonStore
from harmonia_py.store.debuginfo import StoreDebugFiles
from harmonia_py.store.derivations import Derivations
from harmonia_py.store.explore import StoreExplorer
from harmonia_py.store.figures import DaemonFigures
from harmonia_py.store.files import StoreFiles
from harmonia_py.store.given_roots import read_roots
from harmonia_py.store.importing import DaemonWriter
from harmonia_py.store.local import LocalStore
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.roots import TempRoots
from harmonia_py.store.sqlite import SqliteStore
from harmonia_py.store_choice import StoreChoice, Way
from harmonia_py.tuning import give_way, return_memory, trim_memory
from harmonia_py.upstreams import mirror_settings, open_panel, show_breakers

_log = logging.getLogger(__name__)

# A request that got hold of a cache before a reload replaced it has begun its download after so long, or failed.
_ANSWER_SECONDS: Final = 30.0
# What was to be imported when a reload came is imported within this time, or when it is asked for again.
_IMPORT_SECONDS: Final = 600.0
# A hash part as good as any to ask whether somebody answers.
_NOBODYS: Final = HashPart.parse("0" * 32)


class OpenCache:
    """The cache that a configuration describes, and what it holds open.

    Attributes:
        cache: what the web layer sees.
        local: the local store, where there is one.
        metadata: what knows its paths.
        compressed: the compressed NARs of it, when they are offered.
        blobs: where those are kept, when there is a place.
        mirror: what upstreams have, when there are any.
        mirrored: where that is kept, when there is a place.
        panel: the upstreams, when there are any.
        importing: adds what is mirrored to the local store, when it should.
        explorer: answers what people ask about the local store.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.cache: BinaryCache
        self.local: LocalStore | None = None
        self.metadata: StoreMetadata | None = None
        self.compressed: CompressedNars | None = None
        self.blobs: DiskBlobs | None = None
        self.mirror: Mirror | None = None
        self.mirrored: DiskBlobs | None = None
        self.panel: Panel | None = None
        self.importing: Importing | None = None
        self.explorer: StoreExplorer | None = None
        self._metrics = metrics
        self._policy: Policy | None = None
        self._files: StoreFiles | None = None
        self._debug_files: StoreDebugFiles | None = None
        self._checks: list[Check] = []
        self._evictions: list[asyncio.Task[None]] = []
        self._resources = AsyncExitStack()

    @classmethod
    async def open(
        cls, config: Config, secret_keys: list[SecretKey], choice: StoreChoice, *, metrics: Metrics, housekeeping: bool
    ) -> Self:
        """Open it inside the event loop that uses it, after any fork.

        Args:
            config: what to open.
            secret_keys: what to sign with.
            choice: the way to the local store.
            metrics: where this process counts.
            housekeeping: whether this process evicts what is kept too long; one of all that share a directory does.
        """
        return_memory()
        self = cls(metrics)
        self._resources.push_async_callback(_cancel, asyncio.create_task(trim_memory()))
        try:
            self._policy = self._open_policy(config)
            sources: list[Source] = []
            if choice.way is not Way.NONE:
                sources.append(await self._open_store(config, choice, housekeeping=housekeeping))
            elif not config.upstream:
                self._checks.append(Check("nix-store", _no_store))
            if config.upstream:
                sources.append(await self._open_mirror(config, housekeeping=housekeeping))
                self._open_importing(config, secret_keys, choice, housekeeping=housekeeping)
            self.cache = BinaryCache(
                cache_info=CacheInfo(config.store_dir, config.want_mass_query, config.priority),
                sources=sources,
                secret_keys=secret_keys,
                explorer=self.explorer,
                files=self._files if config.serve_files else None,
                debug_files=self._debug_files,
                checks=self._checks,
                base_url=config.base_url,
                upstreams=[upstream.label for upstream in config.upstream],
                policy=self._policy,
                outputs_of=Derivations(config.store_dir, config.real_store).outputs,
                lasting=self._lasting(),
            )
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Close connections, threads and files."""
        await self._resources.aclose()

    async def aclose_when_idle(self) -> None:
        """The same, once the downloads that were begun have ended. From now on another cache evicts."""
        for eviction in self._evictions:
            eviction.cancel()
        await asyncio.sleep(_ANSWER_SECONDS)
        if self.local is not None:
            await self.local.idle()
        if self.mirror is not None:
            await self.mirror.idle()
        if self.importing is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.importing.idle(), _IMPORT_SECONDS)
        await self.aclose()

    async def _open_store(self, config: Config, choice: StoreChoice, *, housekeeping: bool) -> Source:
        self.local = self._local_store(config, choice)
        if config.compression == "none":
            return self.local
        self.blobs = await self._open_blobs(config, housekeeping=housekeeping)
        settings = Zstd(
            level=config.zstd.level,
            threads=config.zstd.threads,
            long_distance_matching=config.zstd.long_distance_matching,
            window_log=config.zstd.window_log,
        )
        compressing = Compressing(
            read=read_slice, settings=settings, at_once=config.cache.jobs, prepare_thread=give_way
        )
        self.compressed = CompressedNars(
            self.local,
            self.blobs,
            compressing,
            CompressedCounters.on(self._metrics),
            arrivals=None if self.blobs is None else self.blobs.arrivals,
        )
        return await self._resources.enter_async_context(self.compressed)

    def _local_store(self, config: Config, choice: StoreChoice) -> LocalStore:
        roots = None
        metadata: StoreMetadata
        if choice.way is Way.DAEMON:
            socket_path = Path(config.daemon_socket)
            metadata = DaemonStore(
                socket_path,
                config.store_dir,
                connections=config.daemon_connections,
                request_timeout=config.daemon_timeout,
                figures=DaemonFigures.on(self._metrics),
            )
            roots = TempRoots(socket_path, config.store_dir, request_timeout=config.daemon_timeout)
            self._resources.push_async_callback(roots.aclose)
        else:
            metadata = SqliteStore(config.database, config.store_dir)
        self._resources.push_async_callback(metadata.aclose)
        self.metadata = metadata
        # What people look for, and where links lead.
        served = metadata if self._policy is None else AllowedPaths(metadata, self._policy)
        self.explorer = StoreExplorer(served, config.real_store)
        self._resources.push_async_callback(self.explorer.aclose)
        self._files = StoreFiles(metadata=served, store_dir=config.store_dir, real_store=config.real_store)
        self._resources.callback(self._files.close)
        self._debug_files = StoreDebugFiles(served, config.real_store)
        self._resources.push_async_callback(self._debug_files.aclose)
        name = "nix-daemon" if choice.way is Way.DAEMON else "database"
        self._checks.append(Check(name, lambda: metadata.path_info(_NOBODYS)))
        local = LocalStore(
            metadata=metadata, roots=roots, real_store=config.real_store, log_directory=config.log_directory
        )
        self._resources.callback(local.close)
        return local

    def _lasting(self) -> list[Callable[[NarInfo], Lasting | None]]:
        if self.local is None or isinstance(self._policy, ClosureOf):
            # What upstreams say and what roots need changes without a sign.
            return []
        return [self.local.lasting, *([self.compressed.lasting] if self.compressed is not None else [])]

    def _open_policy(self, config: Config) -> Policy | None:
        table = config.policy
        if table.serve == "signed":
            return SignedBy(table.keys, config.store_dir)
        if table.serve == "ultimate":
            return BuiltHere()
        if table.serve == "everything":
            return None
        closure = ClosureOf(
            lambda: asyncio.to_thread(read_roots, table.roots, config.store_dir, config.real_store), self._path_info
        )
        self._resources.push_async_callback(closure.aclose)
        return closure

    async def _path_info(self, hash_part: HashPart) -> PathInfo | None:
        """What any source knows of a path, whether it is served or not."""
        info = None if self.metadata is None else await self.metadata.path_info(hash_part)
        if info is not None or self.mirror is None:
            return info
        narinfo = await self.mirror.narinfo(hash_part)
        return None if narinfo is None else narinfo.path_info

    async def _open_mirror(self, config: Config, *, housekeeping: bool) -> Source:
        table = config.mirror
        if table.directory is not None:
            limits = Limits(max_size=table.max_bytes, min_free=table.min_free_bytes)
            self.mirrored = await self._open_directory(
                "mirror.directory", Path(table.directory), limits, housekeeping=housekeeping
            )
        elif self.local is None or config.compression == "none":
            self.mirrored = self.blobs = await self._open_blobs(config, housekeeping=housekeeping)
        else:
            self.mirrored = self.blobs
        self.panel = panel = await open_panel(config, self._resources, self._metrics)
        self._resources.push_async_callback(_cancel, asyncio.create_task(show_breakers(panel)))
        mirror = Mirror(
            panel,
            KeptFiles(self.mirrored),
            config.store_dir,
            mirror_settings(config),
            counters=MirrorCounters.on(self._metrics),
            recode=read_slice if config.mirror.recompress == "zstd" else None,
            texts=self._metrics.board.texts,
        )
        self.mirror = await self._resources.enter_async_context(mirror)
        return mirror

    def _open_importing(
        self, config: Config, secret_keys: list[SecretKey], choice: StoreChoice, *, housekeeping: bool
    ) -> None:
        if not config.mirror.import_ or self.mirror is None or self.mirrored is None:
            return
        if choice.way is not Way.DAEMON:
            if housekeeping:
                _log.warning("mirror.import: nothing is imported, as no nix-daemon is asked")
            return
        writer = DaemonWriter(Path(config.daemon_socket), config.store_dir, request_timeout=config.daemon_timeout)
        self._resources.push_async_callback(writer.aclose)
        self.importing = Importing(
            KeptFiles(self.mirrored),
            self.mirror.memory,
            writer,
            read_slice,
            store_dir=config.store_dir,
            secret_keys=secret_keys,
            counters=ImportCounters.on(self._metrics),
            prepare_thread=give_way,
        )
        self._resources.push_async_callback(self.importing.aclose)
        self.mirror.on_kept = self.importing.want

    async def _open_blobs(self, config: Config, *, housekeeping: bool) -> DiskBlobs | None:
        limits = Limits(max_size=config.cache.max_bytes, min_free=config.cache.min_free_bytes)
        directory = Path(config.cache.directory or ".")
        return await self._open_directory("cache.directory", directory, limits, housekeeping=housekeeping)

    async def _open_directory(
        self, key: str, directory: Path, limits: Limits, *, housekeeping: bool
    ) -> DiskBlobs | None:
        self._checks.append(Check(key.replace(".", "-"), lambda: asyncio.to_thread(probe, directory)))
        try:
            blobs = await self._resources.enter_async_context(DiskBlobs(directory))
        except StorageError as error:
            if housekeeping:  # one worker of several says it
                _log.warning("%s: %s; each download is made anew", key, error)
            return None
        if housekeeping:
            eviction = asyncio.create_task(
                keep_within_limits(
                    blobs,
                    limits,
                    free_bytes=blobs.free_bytes,
                    in_flight=blobs.in_use,
                    counters=EvictionCounters.on(self._metrics, key.partition(".")[0]),
                    unit_of=unit_of,
                )
            )
            self._evictions.append(eviction)
            self._resources.push_async_callback(_cancel, eviction)
        return blobs


async def _no_store() -> None:
    raise StorageError("there is no Nix store here")


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])
