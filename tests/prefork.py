"""The program as a process of its own, without the imports that each start of an interpreter pays for.

    done = prefork.run("token", "list", cwd=root, env=env)          # as subprocess.run does: CompletedProcess[str]
    process = prefork.start("serve", "--config", file, cwd=root, env=env, stdout=log, stderr=log)
    process.pid; process.wait(10); process.send_signal(…)           # as of a Popen; it leads a session of its own

`python -m harmonia_py.cli` spends nine tenths of its start on imports, half a second of a core, and the tests start the
program some hundreds of times. Here one process, which runs this file, imports the whole program once; it opens nothing
and starts no thread. For each start it forks a child that takes over arguments, environment, folder and streams, and
then runs `cli.main()` as an interpreter does. All of them end with the tests, also when those are killed.

Tests of what comes before that (what is imported and when, the streams that Python opens, who started it) start an
interpreter.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO, Any, Final, NoReturn

TIME_LIMIT: Final = 60.0

_PROJECT: Final = Path(__file__).parent.parent
# A start is one message with its environment in it; the kernel takes twice as much.
_LARGEST_START: Final = 100_000
_DESCRIPTORS: Final = 4  # the three streams, and where its process id and then its status are told
_TOLD: Final = 16  # bytes of each of these
_first = threading.Lock()


class Process:
    """A running program; what Popen has of each name does here what it does there."""

    def __init__(self, pid: int, told: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._told = told

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            poll = select.poll()  # which takes descriptors of any number
            poll.register(self._told, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("harmonia-py", timeout or 0)
            self.returncode = int(os.read(self._told, _TOLD))
            os.close(self._told)
        return self.returncode

    def send_signal(self, number: int) -> None:
        # One that has just ended may not have been told of yet.
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    *arguments: str, cwd: Path, env: Mapping[str, str], stdout: IO[Any], stderr: IO[Any], stdin: IO[Any] | None = None
) -> Process:
    """Start `harmonia-py ARGUMENTS…`; without `stdin` it reads /dev/null."""
    message = json.dumps([arguments, str(cwd), dict(env)]).encode()
    assert len(message) <= _LARGEST_START
    told, tells = os.pipe()
    try:
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123  # a device
            streams = (stdin or nothing, stdout, stderr)
            with _first:
                parent = _parent()
            socket.send_fds(parent, [message], [*(stream.fileno() for stream in streams), tells])
    finally:
        os.close(tells)
    pid = os.read(told, _TOLD)
    assert pid, "the process that forks has ended"
    return Process(int(pid), told)


def run(
    *arguments: str, cwd: Path, env: Mapping[str, str], stdin: str = "", timeout: float = TIME_LIMIT
) -> "subprocess.CompletedProcess[str]":
    """Run `harmonia-py ARGUMENTS…` to its end, for at most `timeout` seconds; it reads `stdin` from a file."""
    with ExitStack() as files:
        typed, stdout, stderr = (files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3))
        typed.write(stdin)
        typed.seek(0)
        process = start(*arguments, cwd=cwd, env=env, stdin=typed, stdout=stdout, stderr=stderr)
        try:
            status = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait(timeout)
            raise
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(["harmonia-py", *arguments], status, stdout.read(), stderr.read())


@cache
def _parent() -> socket.socket:
    """Where starts are asked for; its end is that of the process at the other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            # The package that the tests import, also where it is not installed.
            env=os.environ | {"PYTHONPATH": str(_PROJECT)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the tests
        )

    def end() -> None:
        ours.close()
        process.wait(TIME_LIMIT)

    atexit.register(end)
    return ours


def _import_everything() -> None:
    import harmonia_py  # noqa: PLC0415  # only the process that forks needs it

    for module in pkgutil.walk_packages(harmonia_py.__path__, "harmonia_py."):
        importlib.import_module(module.name)


def _next_program(starts: socket.socket) -> None:
    """Fork for every start until the other end is closed; return in each process that is to become the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the children of this process end when they have told all
    while True:
        message, descriptors, _, _ = socket.recv_fds(starts, _LARGEST_START, _DESCRIPTORS)
        if not message:
            sys.exit()
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    starts.close()
    *streams, tells = descriptors
    program = os.fork()
    if program != 0:
        for stream in streams:
            os.close(stream)
        _tell_end(program, tells)
    _take_over(streams, *json.loads(message))
    os.write(tells, str(os.getpid()).ljust(_TOLD).encode())
    os.close(tells)


def _tell_end(program: int, tells: int) -> None:
    """Tell the status of the program when it has ended; where the tests have ended before it, end it."""
    ended = os.pidfd_open(program)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(tells, 0)  # that its other end is closed is told without being asked for
    if ended not in dict(poll.poll()):
        _kill(program)
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        os.write(tells, str(status).ljust(_TOLD).encode())
    os._exit(0)


def _kill(program: int) -> None:
    """Kill the program, which has not been waited for, and its workers."""
    os.kill(program, signal.SIGKILL)  # it may not lead a group yet
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program, signal.SIGKILL)


def _take_over(streams: list[int], arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # descriptors
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["harmonia-py", *arguments]


def _end(status: int) -> NoReturn:
    """End the program as `sys.exit(status)` does, but for one thing: what all modules hold is not taken apart.

    That would copy all memory that this process shares with the one that it was forked from: 60 ms of a core.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    _import_everything()
    gc.freeze()  # else each program looks through all of it for garbage before it ends
    _next_program(socket.socket(fileno=int(sys.argv[1])))
    from harmonia_py.cli import main

    _end(main())
