"""Serving, from the first line on standard output to the last: what the supervisor does, and what each worker does."""

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from harmonia_py import __version__, keys, notify, tokens
from harmonia_py.app import OpenCache
from harmonia_py.banner import banner
from harmonia_py.cache.access import Tokens
from harmonia_py.config import Config
from harmonia_py.errors import HarmoniaError
from harmonia_py.lifelines import Lifelines
from harmonia_py.listen import Certificate, Listener
from harmonia_py.metrics.board import Board, Metrics
from harmonia_py.nix.signing import SecretKey
from harmonia_py.rules import clients_of, limits_of, rules_of
from harmonia_py.store_choice import StoreChoice, choose_store
from harmonia_py.upstreams import check_upstreams
from harmonia_py.web.access_log import AccessLog
from harmonia_py.web.rate_limit import RateTable
from harmonia_py.web.server import serve as serve_http
from harmonia_py.web.state import Serving
from harmonia_py.workers import Supervisor

_log = logging.getLogger(__name__)

# How often is looked whether the certificate has been replaced.
_CERTIFICATE_SECONDS: Final = 5.0

# What a running process cannot change.
_SET_AT_START: Final = (
    *("bind", "tls_cert_path", "tls_key_path", "access_log", "log_format"),
    *("keepalive_timeout", "stall_timeout", "shutdown_timeout", "max_connections", "limits", "worker_timeout"),
    *("unix_socket_mode", "unix_socket_group"),
)


def serve(file: Path | None, config: Config, listeners: list[Listener], reload: Callable[[], Config]) -> int:
    """Serve until SIGTERM or SIGINT; the exit status.

    Args:
        file: where `config` came from; None makes this a start without any, which gets a key of its own.
        config: what is in effect.
        listeners: the sockets to accept on.
        reload: reads the configuration again, for SIGHUP.

    Raises:
        ConfigError: a key or a certificate that cannot be read.
        WorkerFailed: the workers do not get as far as serving.
    """
    first = settings = _read_settings(file, config)
    certificate = _certificate(config)
    if first.choice.warning is not None:
        _log.warning("%s", first.choice.warning)

    _allow_descriptors()
    board = Board(config.workers)
    rates = RateTable()

    def work(lifelines: Lifelines) -> None:
        metrics = board.claim(lifelines.index)
        worker = _Worker(
            settings,
            listeners,
            certificate,
            lambda: _read_settings(file, reload()),
            lifelines,
            metrics=metrics,
            rates=rates,
        )
        uvloop.run(worker.run())

    def check_reload() -> int | None:
        nonlocal settings
        notify.notify(*notify.reloading())
        try:
            changed = _read_settings(file, reload())
            if certificate is not None:
                certificate.renew()
        except HarmoniaError as error:
            _log.error("not reloaded: %s", error)  # the message is meant for people
            return None
        finally:
            notify.notify(notify.READY)
        _warn_of_what_needs_a_restart(config, changed.config)
        # A worker that is started from now on, in the place of one that crashed, begins with these.
        settings = changed
        return changed.config.workers

    watchdog = notify.watchdog_seconds(os.environ)
    supervisor = Supervisor(
        count=config.workers,
        run=work,
        shutdown_timeout=config.shutdown_timeout,
        # Before the service manager loses patience with all of them.
        worker_timeout=config.worker_timeout if watchdog is None else min(config.worker_timeout, watchdog / 2),
        # As sd_watchdog_enabled(3) recommends.
        watchdog=None if watchdog is None else (lambda: notify.notify(notify.WATCHDOG), watchdog / 2),
    )
    supervisor.start()
    print(banner(config, first.choice, listeners, [key.public_key for key in first.secret_keys]), flush=True)  # noqa: T201
    notify.notify(notify.READY, f"STATUS=harmonia-py {__version__} on {', '.join(one.url for one in listeners)}")
    supervisor.supervise(check_reload, on_stop=lambda: _stop_listening(listeners))
    return 0


def _allow_descriptors() -> None:
    """Have as many open files as this process may have: a transfer takes four, and the usual limit is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _stop_listening(listeners: list[Listener]) -> None:
    """Turn new clients away, who would wait in the kernel's queue until the last transfer has ended, and be cut."""
    notify.notify(notify.STOPPING)
    for listener in listeners:
        listener.socket.close()


@dataclass(frozen=True, slots=True)
class _Settings:
    """A configuration, and what it says about this machine."""

    config: Config
    secret_keys: list[SecretKey]
    choice: StoreChoice
    tokens: Tokens | None


def _read_settings(file: Path | None, config: Config) -> _Settings:
    check_upstreams(config)
    opened_by = tokens.read_tokens(Path(config.token_file), os.environ) if config.token_file is not None else None
    return _Settings(config, _secret_keys(file, config), choose_store(config), opened_by)


def _certificate(config: Config) -> Certificate | None:
    if config.tls_cert_path is None or config.tls_key_path is None:
        return None
    return Certificate(Path(config.tls_cert_path), Path(config.tls_key_path))


def _warn_of_what_needs_a_restart(started: Config, changed: Config) -> None:
    for key in _SET_AT_START:
        if getattr(started, key) != getattr(changed, key):
            _log.warning("%s: has changed; that takes effect at the next start", key)


def _secret_keys(file: Path | None, config: Config) -> list[SecretKey]:
    files = config.key_files
    if file is None and not files:
        # Nobody configured anything: an unsigned cache would be of no use to a client as it comes.
        files = [keys.generated_key_file(Path(config.state_directory or "."))]
    return keys.read_secret_keys(files, os.environ)


async def _keep_current(certificate: Certificate) -> None:
    """Show a certificate that has been replaced, as renewals do, without being asked."""
    while True:
        try:
            if await asyncio.to_thread(certificate.has_changed):
                certificate.renew()
                _log.info("the certificate has been replaced")
        except HarmoniaError as error:
            # Perhaps half of the pair has been replaced so far: the old one is shown until both fit.
            _log.warning("the certificate stays what it was: %s", error)
        await asyncio.sleep(_CERTIFICATE_SECONDS)


class _Worker:
    """One process's event loop: serves on the listeners until SIGTERM, swaps its cache on SIGHUP."""

    def __init__(
        self,
        settings: _Settings,
        listeners: list[Listener],
        certificate: Certificate | None,
        read_again: Callable[[], _Settings],
        lifelines: Lifelines,
        *,
        metrics: Metrics,
        rates: RateTable,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._certificate = certificate
        self._read_again = read_again
        self._lifelines = lifelines
        self._metrics = metrics
        self._rates = rates
        # One worker looks after what all of them share.
        self._housekeeping = lifelines.index == 0
        self._stop = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve. Transfers that run at SIGTERM get `shutdown_timeout` seconds to finish."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        # The other end closes with the supervisor: a worker does not outlive it.
        loop.add_reader(self._lifelines.supervisor_fd, self._stop.set)
        beating = asyncio.create_task(self._beat())
        self._open = await self._open_cache(self._settings)
        serving = Serving(self._open.cache, rules_of(self._settings.config, self._settings.tokens))
        tasks = [beating, asyncio.create_task(self._reload_when_asked(serving))]
        if self._certificate is not None:
            tasks.append(asyncio.create_task(_keep_current(self._certificate)))
        try:
            async with self._serve(serving):
                self._lifelines.report_ready()
                await self._stop.wait()
        finally:
            loop.remove_reader(self._lifelines.supervisor_fd)
            for task in (*tasks, *self._closing):
                task.cancel()
            await asyncio.gather(*tasks, *self._closing, return_exceptions=True)
            await self._open.aclose()

    async def _beat(self) -> None:
        while True:
            self._lifelines.beat()
            await asyncio.sleep(self._lifelines.beat_seconds)

    async def _open_cache(self, settings: _Settings) -> OpenCache:
        return await OpenCache.open(
            settings.config,
            settings.secret_keys,
            settings.choice,
            metrics=self._metrics,
            housekeeping=self._housekeeping,
        )

    def _serve(self, serving: Serving) -> AbstractAsyncContextManager[None]:
        config = self._settings.config
        return serve_http(
            serving,
            [listener.socket for listener in self._listeners],
            tls=None if self._certificate is None else self._certificate.context,
            access_log=AccessLog(json_lines=config.log_format == "json") if config.access_log else None,
            metrics=self._metrics,
            limits=limits_of(config),
            clients=clients_of(config, self._rates),
            shutdown_timeout=config.shutdown_timeout,
        )

    async def _reload_when_asked(self, serving: Serving) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            try:
                settings = await asyncio.to_thread(self._read_again)
                if self._certificate is not None:
                    self._certificate.renew()
                # Last: what is opened is served, or nobody would close it.
                opened = await self._open_cache(settings)
            except HarmoniaError as error:
                _log.error("not reloaded: %s", error)  # the message is meant for people
            except Exception:  # noqa: BLE001  # whatever it is, the next reload must find somebody who listens
                _log.exception("not reloaded")
            else:
                serving.replace(opened.cache, rules_of(settings.config, settings.tokens))
                closing = asyncio.create_task(self._open.aclose_when_idle())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                self._open = opened
                _log.info("reloaded")
