"""The catalog of one worker, and all that is open as long as it: caches by name, pushed files, their housekeeping.

A worker opens it once and closes it at its end, whereas each reload makes another `Node`. It is opened as soon as
`harmonia.toml` names a cache, issuers, Attic or a database, or a command has made a cache. Before that there is only
the cache at `/`, and no module of a database is imported.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from harmonia_py.cache.access import Generation
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.cache.caches import Caches, NamedCache
from harmonia_py.cache.checks import Check
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.key_encryption import KeyEncryption
from harmonia_py.catalog.rooms import Rooms
from harmonia_py.config.settings import Config
from harmonia_py.errors import HarmoniaError
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.signing import SecretKey
from harmonia_py.wiring.cache_keys import CacheKeys
from harmonia_py.wiring.catalog import has_catalog, open_catalog, wants_catalog
from harmonia_py.wiring.declared_caches import declare, default_row
from harmonia_py.wiring.elsewhere import Places
from harmonia_py.wiring.node import Node
from harmonia_py.wiring.usage import Usages

if TYPE_CHECKING:
    from harmonia_py.catalog.administration import CacheAdministration
    from harmonia_py.catalog.cache_changes import CacheChanges
    from harmonia_py.database.catalog import SqlCatalog
    from harmonia_py.push.pushes import Pushes
    from harmonia_py.wiring.pushing import PushNode

_log = logging.getLogger(__name__)

# A minute is exact enough for the last uses of tokens that `token list` shows, which are written together, and for the
# end of a key's overlap with its successor, which lasts days.
_CHORE_SECONDS: Final = 60.0


class _Opened(Struct, frozen=True):
    """The things that are open once there is a catalog: what is pushed is kept by it, and signed with its keys."""

    pushing: "PushNode"
    keys: CacheKeys
    generation: Generation


class WorkerCatalog:
    """The catalog of one worker, opened when there is one, and the caches that the worker serves.

    Args:
        metrics: the counters of this process.
        housekeeping: whether this process enters the caches that `harmonia.toml` declares in the catalog, collects, and
            ends the time of keys that are retiring; one of all workers does.
        rooms: hold all storage to the limits of `[storage]`, in the housekeeping process.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        housekeeping: bool,
        rooms: Rooms | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._of_no_catalog = Generation()
        self._metrics = metrics
        self._usages = Usages(metrics)
        self._housekeeping = housekeeping
        self._rooms = rooms
        self._clock = clock
        self._resources = AsyncExitStack()
        self._opened: _Opened | None = None
        self._to_default: Pushes | None = None

    @property
    def checks(self) -> Sequence[Check]:
        """The checks of `/ready`: the catalog answers, and the bucket, if there is one, takes files."""
        if self._opened is None:
            return []
        pushing = self._opened.pushing
        return [Check("catalog", lambda: pushing.catalog.caches.find(DEFAULT)), *pushing.checks]

    @property
    def ports(self) -> "SqlCatalog | None":
        """The ports of the catalog; None while none is open."""
        return None if self._opened is None else self._opened.pushing.catalog

    @property
    def generation(self) -> Generation:
        """Changes when any process changes a cache, a token or a key."""
        return self._of_no_catalog if self._opened is None else self._opened.generation

    async def has_come(self, config: Config) -> bool:
        """Whether a command has made a catalog that is not open here yet."""
        return self._opened is None and await asyncio.to_thread(has_catalog, config)

    @asynccontextmanager
    async def opening(self, config: Config, *, only_wanted: bool = False) -> AsyncIterator[None]:
        """Open the catalog, if `config` needs one or (unless `only_wanted`) there is one, and none is open here yet.

        The block opens what else `config` describes, and then calls `declare` and `use`. When it fails, a catalog that
        was opened for it is closed again, and otherwise the housekeeping of that catalog begins after it: by then the
        settings of caches are those of `config`.

        Raises:
            StorageError: the catalog cannot be opened, or the bucket belongs to another one.
        """
        opens = wants_catalog(config) or (not only_wanted and await self.has_come(config))
        if self._opened is not None or not opens:
            yield
            return
        async with AsyncExitStack() as resources:
            try:
                self._opened = await self._open(config, resources)
                yield
                if self._housekeeping:
                    await self._look_after(self._opened, config, resources)
            except BaseException:
                self._opened = None
                raise
            self._resources = resources.pop_all()

    async def declare(self, config: Config) -> None:
        """Enter the caches that `config` declares in the catalog, each in a transaction of its own.

        Raises:
            StorageError: the catalog does not take them, or not all of them.
        """
        if self._opened is not None and self._housekeeping:
            await declare(self._opened.pushing.catalog.caches, config)

    def use(self, config: Config, key_encryption: KeyEncryption | None, secret_keys: Sequence[SecretKey]) -> None:
        """Use these settings from now on; this cannot fail.

        `secret_keys` sign for the cache at `/`, and `key_encryption` decrypts the keys of the others. A cache with a
        key that cannot be read is not served at all, rather than without its signature.
        """
        if self._opened is not None:
            keys = self._opened.keys
            keys.encryption, keys.default = key_encryption, secret_keys
            self._opened.pushing.max_size = config.storage.max_bytes

    async def _open(self, config: Config, resources: AsyncExitStack) -> "_Opened":
        from harmonia_py.database.transaction import Topic  # noqa: PLC0415
        from harmonia_py.wiring.pushing import PushNode  # noqa: PLC0415

        catalog = await open_catalog(config)
        resources.push_async_callback(catalog.aclose)
        pushing = await asyncio.to_thread(PushNode.of, config, catalog, self._metrics)
        await resources.enter_async_context(pushing)
        if pushing.files.owner is not None:
            await pushing.files.owner.check_at_start()
        generation = Generation(catalog.database.watch(Topic.ACCESS))
        return _Opened(pushing, CacheKeys(catalog.keys, clock=self._clock), generation)

    async def _look_after(self, opened: "_Opened", config: Config, resources: AsyncExitStack) -> None:
        from harmonia_py.wiring.pushed_housekeeping import look_after  # noqa: PLC0415

        period = config.storage.scrub_period
        await look_after(opened.pushing, opened.keys, rooms=self._rooms, scrub_period=period, resources=resources)

    async def aclose(self) -> None:
        """Close the catalog."""
        await self._resources.aclose()

    def changes(self) -> "CacheChanges | None":
        """The changes of caches by the API; None where there is no catalog."""
        if self._opened is None:
            return None
        from harmonia_py.catalog.cache_changes import CacheChanges  # noqa: PLC0415  # by the first request for it

        catalog, encryption = self._opened.pushing.catalog, self._opened.keys.encryption
        return CacheChanges(catalog.caches, catalog.keys, catalog.audit, encryption=encryption, clock=self._clock)

    def caches(self, node: Node, config: Config) -> Caches:
        """The cache at `/`, and those of the catalog."""
        upstreams = [upstream.label for upstream in config.upstream]
        keys = list(dict.fromkeys(key for upstream in config.upstream for key in upstream.keys))
        make = partial(
            Caches,
            public=config.is_public,
            explorer=node.explorer,
            upstreams=upstreams,
            upstream_keys=keys,
            usage=self._usages.default,
        )
        if self._opened is None:
            return make(node.cache)
        pushing, keys_of = self._opened.pushing, self._opened.keys
        catalog = pushing.catalog

        async def find(name: CacheName) -> NamedCache | None:
            row = await catalog.caches.find(name)
            if row is None:
                return None
            return pushing.caches.cache_of(
                row,
                keys=await keys_of.of(row),
                others=places.sources(row),
                debug_files=node.debug_files if row.settings.local_store else None,
                elsewhere=places.elsewhere(row, public=row.settings.public),
                other_keys=await places.keys(row),
                usage=await self._usages.of(row, catalog.caches),
            )

        async def find_served(name: CacheName) -> NamedCache | None:
            return await caches.find(name)

        places = Places(config, node, catalog, keys_of, find_served)
        self._to_default, table = None, config.default_cache
        if table is None:
            caches = make(node.cache, find=find)
            return caches
        row = default_row(config, table)
        stored = pushing.stored(row)
        elsewhere = places.elsewhere(row, public=config.is_public)
        caches = make(node.cache.with_first(stored, stored, elsewhere), find=find)
        if table.into == "catalog" or node.store_import is not None:
            pushing.caches.take_pushes(caches.default, row, node.store_import)
        self._to_default = pushing.caches.pushes_of(caches.default)
        return caches

    def pushes_of(self, cache: NamedCache) -> "Pushes | None":
        """The pushes to `cache`; None where it takes none."""
        return None if self._opened is None else self._opened.pushing.caches.pushes_of(cache)

    def administration_of(self, cache: NamedCache) -> "CacheAdministration | None":
        """The administration of `cache`; None where it takes no pushes."""
        return None if self._opened is None else self._opened.pushing.caches.administration_of(cache)

    async def do_chores(self, take_last_uses: Callable[[], Mapping[str, int]]) -> None:
        """Every minute and at the end, write the last uses of tokens, and end the time of keys that are retiring."""
        try:
            while True:
                await asyncio.sleep(_CHORE_SECONDS)
                await self._note(take_last_uses())
                await self.end_overlaps()
        finally:
            await self._note(take_last_uses())

    async def take_what_waits(self) -> None:
        """Every minute, add to the local store what waits for that; one worker of all does.

        This is no chore among the others: it waits for the nix-daemon.
        """
        while True:
            with _saying_failures("paths that wait for the local store go on waiting: %s"):
                if self._to_default is not None:
                    await self._to_default.take_what_waits()
            await asyncio.sleep(_CHORE_SECONDS)

    async def end_overlaps(self) -> None:
        """Retire keys whose time beside their successor is over, in every worker."""
        with _saying_failures("keys that are to sign no more still do: %s"):
            if self._opened is not None and self._housekeeping:
                await self._opened.keys.end_overlaps()

    async def _note(self, uses: Mapping[str, int]) -> None:
        catalog = self.ports
        if catalog is not None and uses:
            with _saying_failures(f"the last uses of {len(uses)} tokens are not noted: %s"):
                await catalog.access.used({token_id: Timestamp(at) for token_id, at in uses.items()})


@contextmanager
def _saying_failures(message: str) -> Iterator[None]:
    """Log an error of the block in this sentence; the next chore tries again."""
    try:
        yield
    except HarmoniaError as error:
        _log.warning(message, error)
