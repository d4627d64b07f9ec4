"""Serving, from the first line on standard output to the last, as the supervisor does it."""

import logging
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from harmonia_py import __version__
from harmonia_py.config.settings import Config
from harmonia_py.errors import HarmoniaError
from harmonia_py.metrics.board import Board
from harmonia_py.server import log, systemd
from harmonia_py.server.banner import banner
from harmonia_py.server.certificate import Certificate
from harmonia_py.server.lifelines import Lifelines, Reloads
from harmonia_py.server.listen import Listener
from harmonia_py.server.refusal import Reload
from harmonia_py.server.settings import Settings, read_settings
from harmonia_py.server.supervisor import Supervisor
from harmonia_py.server.worker import Worker
from harmonia_py.web.admission.rate_limit import RateTable
from harmonia_py.web.server import make_application
from harmonia_py.wiring.parts import import_parts

_log = logging.getLogger(__name__)

# Settings that a running process cannot change; a worker that replaces another one keeps them as well.
_SET_AT_START: Final = (
    *("bind", "tls_cert_path", "tls_key_path", "access_log", "log_format"),
    *("keepalive_timeout", "stall_timeout", "shutdown_timeout", "max_connections", "limits", "worker_timeout"),
    *("unix_socket_mode", "database", "unix_socket_group"),
)
_STORAGE_SET_AT_START: Final = (
    *("scrub_every", "url", "credentials_file", "public_endpoint", "public_url"),
    *("redirect_from", "redirect_uploads_from", "keep_in_bucket", "hot_max_size", "hot_directory"),
)


class _StartSettings:
    """The settings that a worker begins with, also one that takes the place of another one later.

    The newest settings come first. As long as every worker has refused them, because a disk or a database failed, a new
    worker tries them too, and otherwise begins with the settings that the other workers still serve by.
    """

    def __init__(self, first: Settings) -> None:
        self.reloads = Reloads()
        # Of the reload that a worker has taken last, and of all after it, by their numbers.
        self._read = {0: first}

    def work(self, worker_of: Callable[[Settings], Worker]) -> None:
        """Run one worker until it ends. Raises what it raises."""
        newest = max(self._read)  # the supervisor may have begun another one since this process was forked
        if self._taken() != newest:
            worker = worker_of(self._read[newest])
            try:
                return uvloop.run(worker.run(newest))
            except Exception as error:
                if worker.has_served:
                    raise
                _log.error("a worker begins as before the last reload, because of this: %s", error)
        taken = self._taken()
        refused = None if taken == newest else Reload(newest, self._read[newest])
        return uvloop.run(worker_of(self._read[taken]).run(taken, refused))

    def _taken(self) -> int:
        """The last reload that a worker has taken; of later ones than are known here, this process will hear."""
        taken = self.reloads.taken
        return max((number for number in self._read if number <= taken), default=min(self._read))

    def add(self, wanted: Settings) -> None:
        """Begin a reload with these."""
        taken = self._taken()
        self._read = {number: settings for number, settings in self._read.items() if number >= taken}
        self.reloads.begin()
        self._read[self.reloads.begun] = wanted


def serve(config: Config, listeners: list[Listener], reload: Callable[[], Config]) -> int:
    """Serve until SIGTERM or SIGINT; the exit status.

    Args:
        config: what is in effect.
        listeners: the sockets to accept on.
        reload: reads the configuration again, for SIGHUP.

    Raises:
        ConfigError: a key or a certificate that cannot be read.
        WorkerFailed: the workers do not get as far as serving.
    """
    certificate = _certificate(config)
    # After everything else that may be wrong: a start that fails makes no key.
    first = read_settings(config)
    start_settings = _StartSettings(first)
    import_parts(config)
    if first.choice.warning is not None:
        _log.warning("%s", first.choice.warning)

    _allow_descriptors()
    board = Board(config.workers)
    rates = RateTable()
    application = make_application()

    def work(lifelines: Lifelines) -> None:
        metrics = board.claim(lifelines.index)

        def worker_of(settings: Settings) -> Worker:
            return Worker(
                settings,
                listeners,
                certificate,
                lambda: read_settings(_as_started(config, reload())),
                lifelines,
                reloads=start_settings.reloads,
                metrics=metrics,
                rates=rates,
                application=application,
            )

        start_settings.work(worker_of)

    def check_reload() -> int | None:
        systemd.notify(*systemd.reloading())
        try:
            changed = reload()
            wanted = read_settings(_as_started(config, changed))
            if certificate is not None:
                certificate.renew()
        except HarmoniaError as error:
            _log.error("not reloaded: %s", "; ".join(str(error).splitlines()))  # the message is meant for people
            return None
        except Exception:  # noqa: BLE001  # whatever a file has in it, the workers go on
            _log.exception("not reloaded")
            return None
        finally:
            systemd.notify(systemd.READY)
        _warn_of_what_needs_a_restart(config, changed)
        start_settings.add(wanted)
        log.set_level(wanted.config.log_level)
        return wanted.config.workers

    watchdog = systemd.watchdog_seconds(os.environ)
    supervisor = Supervisor(
        count=config.workers,
        run=work,
        shutdown_timeout=config.shutdown_timeout,
        # Before the service manager loses patience with all of them.
        worker_timeout=config.worker_timeout if watchdog is None else min(config.worker_timeout, watchdog / 2),
        # As sd_watchdog_enabled(3) recommends.
        watchdog=None if watchdog is None else (lambda: systemd.notify(systemd.WATCHDOG), watchdog / 2),
    )
    supervisor.start()
    print(banner(config, first.choice, listeners, [key.public_key for key in first.secret_keys]), flush=True)  # noqa: T201
    systemd.notify(systemd.READY, f"STATUS=harmonia-py {__version__} on {', '.join(one.url for one in listeners)}")
    supervisor.supervise(check_reload, on_stop=lambda: _stop_listening(listeners))
    return 0


def _allow_descriptors() -> None:
    """Have as many open files as this process may have: a transfer takes four, and the usual limit is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _stop_listening(listeners: list[Listener]) -> None:
    """Turn new clients away, who would wait in the kernel's queue until the last transfer has ended, and be cut."""
    systemd.notify(systemd.STOPPING)
    for listener in listeners:
        listener.socket.close()


def _certificate(config: Config) -> Certificate | None:
    if config.tls_cert_path is None or config.tls_key_path is None:
        return None
    return Certificate(Path(config.tls_cert_path), Path(config.tls_key_path))


def _warn_of_what_needs_a_restart(started: Config, changed: Config) -> None:
    for key in _SET_AT_START:
        if getattr(started, key) != getattr(changed, key):
            _log.warning("%s: has changed; that takes effect at the next start", key)
    for key in _STORAGE_SET_AT_START:
        if getattr(started.storage, key) != getattr(changed.storage, key):
            _log.warning("storage.%s: has changed; that takes effect at the next start", key)


def _as_started(started: Config, changed: Config) -> Config:
    """A configuration that was read again, with what only a start changes as it was at the start.

    Without that a worker that takes the place of a crashed one would keep files in another bucket than the others.
    """
    storage = {key: getattr(started.storage, key) for key in _STORAGE_SET_AT_START}
    kept = {key: getattr(started, key) for key in _SET_AT_START}
    return msgspec.structs.replace(changed, **kept, storage=msgspec.structs.replace(changed.storage, **storage))
