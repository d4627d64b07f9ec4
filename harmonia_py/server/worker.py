"""A worker: it holds its pools open, makes caches from its settings, and serves them."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

from aiohttp import web
from msgspec.structs import replace

from harmonia_py.cache.access import Generation
from harmonia_py.cache.caches import Caches
from harmonia_py.catalog.quota import Limits as StorageLimits
from harmonia_py.catalog.rooms import Rooms
from harmonia_py.config.settings import Config
from harmonia_py.errors import HarmoniaError
from harmonia_py.metrics.board import Metrics
from harmonia_py.runtime.lasting import lasting
from harmonia_py.server import log
from harmonia_py.server.certificate import Certificate, keep_current
from harmonia_py.server.lifelines import Lifelines, Reloads
from harmonia_py.server.listen import Listener
from harmonia_py.server.refusal import RETRY_SECONDS, Refusal, Reload
from harmonia_py.server.settings import Settings
from harmonia_py.web.admission.access_log import AccessLog
from harmonia_py.web.admission.rate_limit import RateTable
from harmonia_py.web.server import serve as serve_http
from harmonia_py.web.state import Serving, ServingSettings
from harmonia_py.wiring.access import authenticators, token_exchange
from harmonia_py.wiring.catalog import wants_catalog
from harmonia_py.wiring.node import Node
from harmonia_py.wiring.pools import Pools
from harmonia_py.wiring.serving_settings import clients_of, limits_of, serving_settings_of
from harmonia_py.wiring.store_choice import Way, choose_store
from harmonia_py.wiring.worker_catalog import WorkerCatalog

_log = logging.getLogger(__name__)

# How often is looked for a store while there is none, and for a catalog: a connection that is refused, and a file that
# is not there, in a thread.
_LOOK_SECONDS: Final = 2.0


def _access_log(config: Config) -> AccessLog | None:
    if not config.access_log:
        return None
    json_lines, stamp = config.log_format == "json", log.stamp_for(os.environ)
    output = log.access_output(json_lines=json_lines, stamp=stamp)
    return AccessLog(json_lines=json_lines, stamp=stamp, write=output.write)


class Worker:
    """One process's event loop: serves on the listeners until SIGTERM; SIGHUP makes it read its settings again.

    Args:
        settings: that it begins with.
        listeners: the sockets to accept on.
        certificate: shown to clients; None for HTTP without TLS.
        read_again: reads the settings, in a thread.
        lifelines: tie it to its supervisor.
        reloads: where it notes which reload it has taken.
        metrics: the counters of this process.
        rates: the requests of clients to all workers together.
        application: has not served yet.

    Attributes:
        has_served: whether it has begun to serve.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: list[Listener],
        certificate: Certificate | None,
        read_again: Callable[[], Settings],
        lifelines: Lifelines,
        *,
        reloads: Reloads,
        metrics: Metrics,
        rates: RateTable,
        application: web.Application,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._certificate = certificate
        self._read_again = read_again
        self._lifelines = lifelines
        self._reloads = reloads
        self._metrics = metrics
        self._rates = rates
        self._application = application
        # One worker looks after what all of them share.
        self._housekeeping = lifelines.index == 0
        self._stop = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._pools = Pools()
        self._rooms = Rooms() if self._housekeeping else None
        self._catalog = WorkerCatalog(metrics, housekeeping=self._housekeeping, rooms=self._rooms)
        self._catalog_failure = ""
        self._refusal = Refusal()
        self.has_served = False

    async def run(self, number: int, refused: Reload | None = None) -> None:
        """Serve. Transfers that run at SIGTERM get `shutdown_timeout` seconds to finish.

        Args:
            number: of the reload that has read the settings.
            refused: a later reload that could not be opened, and is tried again.
        """
        self._refusal.reload = refused
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        # The other end closes with the supervisor: a worker does not outlive it.
        loop.add_reader(self._lifelines.supervisor_fd, self._stop.set)
        tasks = [asyncio.create_task(self._beat())]
        try:
            node = await self._open_first()
            self._limit_rooms(self._settings)
            served = self._served(node, self._settings)
            serving = Serving(*served, self._catalog.pushes_of, self._catalog.administration_of)
            tasks += [asyncio.create_task(lasting(work)) for work in self._works(serving)]
            async with self._serve(serving):
                self.has_served = True
                self._reloads.take(number)
                self._lifelines.report_ready()
                await self._stop.wait()
        finally:
            loop.remove_reader(self._lifelines.supervisor_fd)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._catalog.aclose()
            await self._pools.aclose()

    def _works(self, serving: Serving) -> Iterator[Callable[[], Awaitable[None]]]:
        yield partial(self._keep_configured, serving)
        yield partial(self._catalog.do_chores, serving.take_last_uses)
        if self._housekeeping:
            yield self._catalog.take_what_waits
        if self._rooms is not None:
            yield self._rooms.run
        if self._certificate is not None:
            yield partial(keep_current, self._certificate)

    async def _beat(self) -> None:
        while True:
            self._lifelines.beat()
            await asyncio.sleep(self._lifelines.beat_seconds)

    def _served(self, node: Node, settings: Settings) -> tuple[Caches, ServingSettings, Generation]:
        ports = self._catalog.ports
        return (
            self._catalog.caches(node, settings.config),
            serving_settings_of(
                settings.config,
                authenticators(ports, settings.tokens, node.id_tokens, settings.attic),
                [*node.checks, *self._catalog.checks],
                self._catalog.changes,
                token_exchange(ports, node.id_tokens),
            ),
            self._catalog.generation,
        )

    def _limit_rooms(self, settings: Settings) -> None:
        if self._rooms is not None:
            table = settings.config.storage
            self._rooms.limits = StorageLimits(max_size=table.max_bytes, min_free=table.min_free_bytes)

    async def _open_first(self) -> Node:
        try:
            return await self._open(self._settings)
        except HarmoniaError as error:
            if self._refusal.reload is None or wants_catalog(self._settings.config):
                raise
            # The catalog may be one that the refused reload has begun and that cannot be used: no worker would serve.
            _log.error("a worker begins without a catalog, because of this: %s", error)  # for people
            return await self._open(self._settings, only_wanted=True)

    async def _open(self, settings: Settings, *, only_wanted: bool = False) -> Node:
        """Open what `settings` describe. When that fails, this process goes on as it was.

        `only_wanted`: a catalog that the configuration does not need is left alone.
        """
        config = settings.config
        async with self._catalog.opening(config, only_wanted=only_wanted):
            node = await Node.open(
                config,
                settings.secret_keys,
                settings.choice,
                self._pools,
                metrics=self._metrics,
                housekeeping=self._housekeeping,
                rooms=self._rooms,
                # Last of what may fail: other workers and other machines see it at once.
                confirm=partial(self._catalog.declare, config),
            )
            self._catalog.use(config, settings.key_encryption, settings.secret_keys)
        return node

    def _serve(self, serving: Serving) -> AbstractAsyncContextManager[None]:
        config = self._settings.config
        return serve_http(
            serving,
            [listener.socket for listener in self._listeners],
            application=self._application,
            tls=None if self._certificate is None else self._certificate.context,
            access_log=_access_log(config),
            metrics=self._metrics,
            limits=limits_of(config),
            clients=clients_of(config, self._rates),
            shutdown_timeout=config.shutdown_timeout,
        )

    async def _keep_configured(self, serving: Serving) -> None:
        """Reload when that is wanted, and look now and then for a store and a catalog while there is none."""
        while True:
            try:
                async with asyncio.timeout(self._patience()):
                    await self._reload_wanted.wait()
            except TimeoutError:
                if self._stop.is_set():
                    continue
                refused = self._refusal.due()
                if refused is not None:
                    await self._take(refused, serving)
                await self._look_for_store(serving)
                if not self._refusal.may_have_begun_a_catalog:
                    await self._look_for_catalog(serving)
            else:
                self._reload_wanted.clear()
                await self._reload(serving)

    def _patience(self) -> float | None:
        """Seconds until there is something to be tried again, or looked for; None for nothing."""
        if self._settings.choice.may_change or self._catalog.ports is None:
            return _LOOK_SECONDS
        return None if self._refusal.reload is None else RETRY_SECONDS

    async def _reload(self, serving: Serving) -> None:
        number = self._reloads.begun
        self._refusal.forget()
        if self._certificate is not None:
            # One that has been replaced is shown also when the rest is refused: `_keep_current` would show it soon.
            try:
                self._certificate.renew()
            except Exception as error:  # noqa: BLE001  # as below
                _log.warning("the certificate stays what it was: %s", error)
        try:
            settings = await asyncio.to_thread(self._read_again)
        except Exception as error:  # noqa: BLE001  # after any error the next reload must find this task
            self._refusal.say(error)
        else:
            await self._take(Reload(number, settings), serving)

    async def _take(self, reload: Reload, serving: Serving) -> None:
        """Serve by what a reload has read; while a disk, a database or a bucket fails, it is tried again."""
        try:
            # The store may have come, or gone, since the reload was read.
            choice = await asyncio.to_thread(choose_store, reload.settings.config)
            await self._serve_by(replace(reload.settings, choice=choice), serving)
        except Exception as error:  # noqa: BLE001  # as in `_reload`
            self._refusal.note(reload, error)
        else:
            self._refusal.forget()
            self._reloads.take(reload.number)
            _log.info("reloaded")

    async def _look_for_store(self, serving: Serving) -> None:
        """Serve the local store as soon as there is one: the server may have been started before Nix was installed."""
        if not self._settings.choice.may_change:
            return
        try:
            choice = await asyncio.to_thread(choose_store, self._settings.config)
            if choice == self._settings.choice:
                return
            await self._serve_by(replace(self._settings, choice=choice), serving)
        except Exception:  # noqa: BLE001  # as in `_reload`
            _log.exception("the store that has come cannot be served")
        else:
            words = choice.warning
            if words is None and choice.way is not Way.NONE:
                words = f"the store is here now: {self._settings.config.store_dir}, {choice.words}"
            if self._housekeeping and words is not None:  # one worker of several says it
                _log.warning("%s", words)

    async def _look_for_catalog(self, serving: Serving) -> None:
        """Serve the caches and take the tokens of a catalog that a command has made while this server runs."""
        try:
            if not await self._catalog.has_come(self._settings.config):
                return
            await self._serve_by(self._settings, serving)
        except Exception as error:  # noqa: BLE001  # as in `_reload`
            if self._catalog_failure != str(error):  # once, and not every few seconds
                self._catalog_failure = str(error)
                _log.exception("the catalog that has come cannot be used")

    async def _serve_by(self, settings: Settings, serving: Serving) -> None:
        node = await self._open(settings)
        serving.replace(*self._served(node, settings))
        self._limit_rooms(settings)
        log.set_level(settings.config.log_level)
        self._settings = settings
