"""The composition root: the one module that knows every other, and how a configuration becomes a running cache."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

import uvloop

from harmonia_py import __version__, keys, notify
from harmonia_py.banner import banner
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.config import Config
from harmonia_py.errors import HarmoniaError
from harmonia_py.listen import Listener, open_listeners
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.store.daemon import DaemonStore
from harmonia_py.store.local import LocalStore
from harmonia_py.store.roots import TempRoots
from harmonia_py.store.sqlite import SqliteStore
from harmonia_py.store_choice import StoreChoice, Way, choose_store
from harmonia_py.web.access_log import AccessLog
from harmonia_py.web.server import serve as serve_http
from harmonia_py.web.state import Serving
from harmonia_py.workers import Lifelines, Supervisor

_log = logging.getLogger(__name__)

# A request that got hold of a cache before a reload replaced it has begun its download after so long, or failed.
_ANSWER_SECONDS: Final = 30.0


def serve(file: Path | None, config: Config, reload: Callable[[], Config]) -> int:
    """Serve until SIGTERM or SIGINT; the exit status.

    Args:
        file: where `config` came from; None makes this a first start, which gets a key of its own.
        config: what is in effect.
        reload: reads the configuration again, for SIGHUP.

    Raises:
        ConfigError: a key that cannot be read, an address that cannot be bound.
        WorkerFailed: the workers do not get as far as serving.
    """
    secret_keys = _secret_keys(file, config)
    choice = choose_store(config)
    listeners = open_listeners(config.addresses, os.environ)
    if choice.warning is not None:
        _log.warning("%s", choice.warning)

    def work(lifelines: Lifelines) -> None:
        uvloop.run(_Worker(file, config, listeners, reload).run(secret_keys, choice, lifelines))

    def check_reload() -> int | None:
        notify.notify(*notify.reloading())
        try:
            changed = reload()
            keys.read_secret_keys(changed.key_files, os.environ)
        except HarmoniaError as error:
            _log.error("not reloaded: %s", error)  # the message is meant for people
            return None
        finally:
            notify.notify(notify.READY)
        if changed.addresses != config.addresses:
            _log.warning("bind: has changed; that takes effect at the next start")
        return changed.workers

    supervisor = Supervisor(count=config.workers, run=work, shutdown_timeout=config.shutdown_timeout)
    supervisor.start()
    print(banner(config, choice, listeners, [key.public_key for key in secret_keys]), flush=True)  # noqa: T201
    notify.notify(notify.READY, f"STATUS=harmonia-py {__version__} on {', '.join(one.url for one in listeners)}")
    supervisor.supervise(check_reload)
    notify.notify(notify.STOPPING)
    return 0


def _secret_keys(file: Path | None, config: Config) -> list[SecretKey]:
    files = config.key_files
    if file is None and not files:
        # Nobody configured anything: an unsigned cache would be of no use to a client as it comes.
        files = [keys.generated_key_file(Path(config.state_directory or "."))]
    return keys.read_secret_keys(files, os.environ)


class OpenCache:
    """The cache that a configuration describes, and what it holds open."""

    def __init__(self, config: Config, secret_keys: list[SecretKey], choice: StoreChoice) -> None:
        self._resources = AsyncExitStack()
        self._local = None if choice.way is Way.NONE else _local_store(config, choice, self._resources)
        self.cache = BinaryCache(
            cache_info=CacheInfo(config.store_dir, config.want_mass_query, config.priority),
            sources=[] if self._local is None else [self._local],
            secret_keys=secret_keys,
        )

    async def aclose(self) -> None:
        """Close connections, threads and files."""
        await self._resources.aclose()

    async def aclose_when_idle(self) -> None:
        """The same, once the downloads that were begun have ended."""
        await asyncio.sleep(_ANSWER_SECONDS)
        if self._local is not None:
            await self._local.idle()
        await self.aclose()


def _local_store(config: Config, choice: StoreChoice, resources: AsyncExitStack) -> LocalStore:
    roots = None
    metadata: DaemonStore | SqliteStore
    if choice.way is Way.DAEMON:
        metadata = DaemonStore(
            Path(config.daemon_socket),
            config.store_dir,
            connections=config.daemon_connections,
            request_timeout=config.daemon_timeout,
        )
        roots = TempRoots(Path(config.daemon_socket), config.store_dir, request_timeout=config.daemon_timeout)
        resources.push_async_callback(roots.aclose)
    else:
        metadata = SqliteStore(config.database, config.store_dir)
    resources.push_async_callback(metadata.aclose)
    local = LocalStore(metadata=metadata, roots=roots, real_store=config.real_store, log_directory=config.log_directory)
    resources.callback(local.close)
    return local


class _Worker:
    """One process's event loop: serves on the listeners until SIGTERM, swaps its cache on SIGHUP."""

    def __init__(
        self, file: Path | None, config: Config, listeners: list[Listener], reload: Callable[[], Config]
    ) -> None:
        self._file = file
        self._config = config
        self._listeners = listeners
        self._reload = reload
        self._stop = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self, secret_keys: list[SecretKey], choice: StoreChoice, lifelines: Lifelines) -> None:
        """Serve. Transfers that run at SIGTERM get `shutdown_timeout` seconds to finish."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        # The other end closes with the supervisor: a worker does not outlive it.
        loop.add_reader(lifelines.supervisor_fd, self._stop.set)
        self._open = OpenCache(self._config, secret_keys, choice)
        serving = Serving(self._open.cache)
        reloads = asyncio.create_task(self._reload_when_asked(serving))
        try:
            async with self._serve(serving):
                lifelines.report_ready()
                await self._stop.wait()
        finally:
            loop.remove_reader(lifelines.supervisor_fd)
            for task in (reloads, *self._closing):
                task.cancel()
            await asyncio.gather(reloads, *self._closing, return_exceptions=True)
            await self._open.aclose()

    def _serve(self, serving: Serving) -> AbstractAsyncContextManager[None]:
        config = self._config
        return serve_http(
            serving,
            [listener.socket for listener in self._listeners],
            access_log=AccessLog(json_lines=config.log_format == "json") if config.access_log else None,
            keepalive_timeout=config.keepalive_timeout,
            stall_timeout=config.stall_timeout,
            shutdown_timeout=config.shutdown_timeout,
        )

    async def _reload_when_asked(self, serving: Serving) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            try:
                config = self._reload()
                secret_keys = _secret_keys(self._file, config)
                opened = OpenCache(config, secret_keys, choose_store(config))
            except HarmoniaError as error:
                _log.error("not reloaded: %s", error)  # the message is meant for people
            else:
                serving.replace(opened.cache)
                closing = asyncio.create_task(self._open.aclose_when_idle())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                self._open = opened
                _log.info("reloaded")
