"""Processes: a supervisor that forks, watches and reloads, and workers that serve on the sockets they share.

The supervisor opens no connection and runs no event loop. A worker that crashes takes only its own connections with it;
a supervisor that dies takes its workers with it, because they watch a pipe that only it holds open.
"""

import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from harmonia_py.errors import HarmoniaError
from harmonia_py.server import signals
from harmonia_py.server.lifelines import Heartbeats, Lifelines

_log = logging.getLogger(__name__)

# A worker that lives shorter than this was not healthy; it is replaced, but ever more slowly.
HEALTHY_SECONDS: Final = 5.0
MAX_RESTART_DELAY: Final = 10.0
START_TIMEOUT: Final = 30.0
# Seconds that a worker gets beyond the time for its transfers, before it is killed.
KILL_GRACE: Final = 5.0
# A signal to stop that follows another sooner is the same wish: a terminal and a wrapper may both pass one on.
IMPATIENCE_SECONDS: Final = 1.0

# Between two signs of life of a healthy worker.
_BEAT_SECONDS: Final = 1.0

_SIGNALS: Final = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class _Worker(Struct):
    pid: int
    index: int
    ready_fd: int
    started: float
    is_killed: bool = False


class WorkerFailed(HarmoniaError):
    """A worker ended before it served for the first time."""


class Supervisor:
    """Keeps `count` workers running.

    Args:
        count: number of workers.
        run: the worker, in its own process, until SIGTERM tells it to stop; SIGHUP means reload.
        shutdown_timeout: seconds that workers get to finish after SIGTERM.
        worker_timeout: seconds after which a worker that shows no sign of life is killed, and replaced.
        watchdog: called every so often while no worker is stuck, with the seconds between.
    """

    # A stuck worker keeps its connections waiting and its share of new ones; the others are well. So it alone is
    # replaced. Only when that fails, or this process is stuck itself, does the service manager hear nothing any more.

    def __init__(
        self,
        *,
        count: int,
        run: Callable[[Lifelines], None],
        shutdown_timeout: float,
        worker_timeout: float = 30.0,
        watchdog: tuple[Callable[[], None], float] | None = None,
    ) -> None:
        self._worker_timeout = worker_timeout
        self._watchdog = watchdog
        self._watchdog_at = 0.0
        self._looked_at = time.monotonic()
        # When this process went on after it had stood still.
        self._resumed_at = 0.0
        self._heartbeats = Heartbeats()
        self._look_seconds = min(_BEAT_SECONDS, worker_timeout / 4)
        self._count = count
        self._run = run
        self._shutdown_timeout = shutdown_timeout
        self._workers: dict[int, _Worker] = {}
        # Workers that were told to end because fewer are wanted.
        self._retired: set[int] = set()
        self._restart_delay = 0.0
        self._restart_at = 0.0
        # The write end lives as long as this process; workers see the end of file.
        self._lifeline_read, self._lifeline_write = os.pipe()

    def start(self) -> None:
        """Fork the workers and wait until each serves.

        Raises:
            WorkerFailed: one of them did not get that far; the others have been stopped.
        """
        signals.block(_SIGNALS)
        # Objects made so far are never collected, so their pages stay shared with the workers. To collect first would
        # take as long as a tenth of the imports, and find a few hundred KiB.
        gc.freeze()
        gc.enable()
        for _ in range(self._count):
            self._spawn()
        for worker in list(self._workers.values()):
            if not self._wait_until_ready(worker):
                self._stop()
                raise WorkerFailed("a worker did not start; its messages are above")

    def supervise(self, on_reload: Callable[[], int | None], on_stop: Callable[[], None] | None = None) -> None:
        """Watch until SIGTERM or SIGINT, then stop the workers.

        Args:
            on_reload: called on SIGHUP; returns the number of workers wanted, or None to leave everything as it is.
            on_stop: called when stopping begins.
        """
        while True:
            told = self._wait_for_signal()
            received = None if told is None else told.si_signo
            if received == signal.SIGCHLD:
                self._reap()
            elif received == signal.SIGHUP:
                count = on_reload()
                if count is not None:
                    self._signal(signal.SIGHUP)
                    self._resize(count)
            elif told is not None:
                if on_stop is not None:
                    on_stop()
                again = "; Ctrl-C again cuts them" if received == signal.SIGINT else ""
                _log.info("stopping%s; transfers have %g s to finish%s", _asked_by(told), self._shutdown_timeout, again)
                self._stop()
                return
            self._look_after_workers()
            if time.monotonic() >= self._restart_at:
                while len(self._workers) < self._count:
                    self._spawn()

    def _wait_for_signal(self) -> signal.struct_siginfo | None:
        """The next signal, or None when it is time to look after the workers, or to start another."""
        patience = self._look_seconds
        if len(self._workers) < self._count:
            patience = min(patience, max(0.0, self._restart_at - time.monotonic()))
        return signals.wait_for(_SIGNALS, patience)

    def _look_after_workers(self) -> None:
        """Kill the workers that are stuck; without any, tell the watchdog."""
        now = time.monotonic()
        if now - self._looked_at > self._worker_timeout / 2:
            # It was stopped (Ctrl-Z, a container that is paused), and so were the workers: they show what they do anew.
            self._resumed_at = now
        self._looked_at = now
        stuck = [worker for worker in self._workers.values() if self._is_stuck(worker, now)]
        for worker in stuck:
            if not worker.is_killed:
                worker.is_killed = True
                _log.error("worker %d is stuck; killing it", worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
        if self._watchdog is not None and self._workers and not stuck and now >= self._watchdog_at:
            tell, seconds = self._watchdog
            self._watchdog_at = now + seconds
            tell()

    def _is_stuck(self, worker: _Worker, now: float) -> bool:
        last = self._heartbeats.last(worker.index)
        # Before the worker's loop turns for the first time, only the longer time of a start counts.
        silent = now - max(last or worker.started, self._resumed_at)
        return silent > (self._worker_timeout if last else START_TIMEOUT)

    def _spawn(self) -> None:
        taken = {worker.index for worker in self._workers.values()}
        index = next(index for index in range(self._count) if index not in taken)
        ready_read, ready_write = os.pipe()
        self._heartbeats.reset(index)
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            self._become_worker(
                Lifelines(index, ready_write, self._lifeline_read, self._heartbeats, self._look_seconds)
            )
        os.close(ready_write)
        self._workers[pid] = _Worker(pid, index, ready_read, time.monotonic())

    def _become_worker(self, lifelines: Lifelines) -> None:
        """Run the worker in the process just forked; never returns."""
        status = 1
        try:
            os.close(self._lifeline_write)
            for other in self._workers.values():
                os.close(other.ready_fd)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # SIGHUP waits until the worker listens to it: now it would end the process.
            signals.unblock(_SIGNALS - {signal.SIGHUP})
            self._run(lifelines)
            status = 0
        except HarmoniaError as error:
            _log.error("%s", error)  # the message is meant for people
        except BaseException:  # noqa: BLE001  # the process ends here, with any error
            _log.exception("a worker failed")
        finally:
            # Not sys.exit: the supervisor's exit handlers are not for this process.
            os._exit(status)

    def _wait_until_ready(self, worker: _Worker) -> bool:
        os.set_blocking(worker.ready_fd, False)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            try:
                return os.read(worker.ready_fd, 1) == b"+"
            except BlockingIOError:
                time.sleep(0.005)
        _log.error("worker %d does not serve after %g s", worker.pid, START_TIMEOUT)
        return False

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._retired.discard(pid)
            worker = self._workers.pop(pid, None)
            if worker is None:
                continue
            os.close(worker.ready_fd)
            _log.error("worker %d ended: %s; starting another", pid, _describe(status))
            healthy = time.monotonic() - worker.started >= HEALTHY_SECONDS
            self._restart_delay = 0.0 if healthy else min(MAX_RESTART_DELAY, 2 * self._restart_delay + 0.1)
            self._restart_at = time.monotonic() + self._restart_delay

    def _resize(self, count: int) -> None:
        self._count = count
        for worker in [worker for worker in self._workers.values() if worker.index >= count]:
            # It finishes what it is doing, and its end is not a crash.
            del self._workers[worker.pid]
            self._retired.add(worker.pid)
            os.close(worker.ready_fd)
            os.kill(worker.pid, signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._workers:
            os.kill(pid, number)

    def _stop(self) -> None:
        self._signal(signal.SIGTERM)
        remaining = self._retired | set(self._workers)
        began = time.monotonic()
        deadline = began + self._shutdown_timeout + KILL_GRACE
        while remaining := remaining - _ended():
            left = deadline - time.monotonic()
            if left <= 0:
                _log.warning("%d workers did not stop in time; killing them", len(remaining))
                for pid in remaining:
                    os.kill(pid, signal.SIGKILL)
                left = KILL_GRACE
            received = signals.wait_for(_SIGNALS, left)
            if received is not None and received.si_signo in {signal.SIGINT, signal.SIGTERM}:
                now = time.monotonic()
                deadline = now if now - began >= IMPATIENCE_SECONDS else deadline


def _ended() -> set[int]:
    """The processes that have ended and were not waited for."""
    ended = set()
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(pid)
    return ended


def _asked_by(told: signal.struct_siginfo) -> str:
    """The process that sent a signal, in words, for the log: an unexpected stop can be traced to its cause.

    Nothing for a terminal, and for a process that this one cannot see.
    """
    if told.si_pid == 0:
        return ""
    try:
        name = Path(f"/proc/{told.si_pid}/comm").read_text().strip()
    except OSError:
        name = "which has ended"
    return f", as process {told.si_pid} ({name}) of user {told.si_uid} asks"


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"killed by {signal.Signals(number).name}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"
