"""The program as a process of its own, without the imports that each start of an interpreter pays for.

    done = prefork.run("token", "list", cwd=root, env=env)          # as subprocess.run does: CompletedProcess[str]
    process = prefork.start("serve", "--config", file, cwd=root, env=env, stdout=log, stderr=log)
    process.pid; process.wait(10); process.send_signal(…)           # as of a Popen; it leads a session of its own
    piped = prefork.piped("push", path, cwd=root, env=env)          # its streams are pipes, with texts
    piped.stdout.readline(); out, err = piped.communicate(10)

`python -m harmonia_py.cli` spends nine tenths of its start on imports, half a second of a core, and the tests start the
program some hundreds of times. Here one process, which runs this file, imports the whole program once; it opens nothing
and starts no thread. For each start it forks a child that takes over arguments, environment, folder and streams, and
then runs `cli.main()` as an interpreter does. All of them end with the tests, also when those are killed.

It has also made once what each start makes, such as the patterns of all URLs.

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
from concurrent.futures import ThreadPoolExecutor
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


class Piped(Process):
    """A running program whose streams are pipes."""

    def __init__(self, process: Process, stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> None:
        super().__init__(process.pid, process._told)
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it has written and was not read yet, when it has ended."""
        self.stdin.close()
        with self.stdout, self.stderr, ThreadPoolExecutor(2) as threads:
            texts = [threads.submit(stream.read) for stream in (self.stdout, self.stderr)]
            stdout, stderr = (text.result(timeout) for text in texts)
        self.wait(timeout)
        return stdout, stderr


def piped(*arguments: str, cwd: Path, env: Mapping[str, str]) -> Piped:
    """Start `harmonia-py ARGUMENTS…` with pipes for its streams."""
    (reads, stdin), (stdout, writes_out), (stderr, writes_err) = (os.pipe() for _ in range(3))
    with open(reads) as theirs, open(writes_out, "w") as out, open(writes_err, "w") as err:  # noqa: PTH123  # descriptors
        process = start(*arguments, cwd=cwd, env=env, stdin=theirs, stdout=out, stderr=err)
    return Piped(process, open(stdin, "w"), open(stdout), open(stderr))  # noqa: PTH123  # descriptors


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


def _make_once() -> None:
    """Fill the caches that programs fill when they start: the patterns of all URLs are half of a start of `serve`."""
    from harmonia_py.cli import make_parser  # noqa: PLC0415  # only the process that forks needs it
    from harmonia_py.config.file import load  # noqa: PLC0415
    from harmonia_py.web.server import make_application  # noqa: PLC0415

    make_application()
    make_parser()
    load(None, {}, {})


def _next_program(starts: socket.socket) -> None:
    """Fork for every start until the other end is closed; return in each process that is to become the program."""
    poll = select.poll()
    poll.register(starts, select.POLLIN)
    running = _Running(poll)
    while True:
        (descriptor, _), *_others = poll.poll()  # one at a time: those of others may be closed by then
        if descriptor != starts.fileno():
            running.look_at(descriptor)
            continue
        message, descriptors, _, _ = socket.recv_fds(starts, _LARGEST_START, _DESCRIPTORS)
        if not message:
            running.end()
            sys.exit()
        *streams, tells = descriptors
        program = os.fork()
        if program == 0:
            running.close()
            starts.close()
            _take_over(streams, *json.loads(message))
            os.write(tells, str(os.getpid()).ljust(_TOLD).encode())
            os.close(tells)
            return
        for stream in streams:
            os.close(stream)
        running.add(program, tells)


class _Running:
    """The programs that have been forked: tells the status of each that ends, and ends those whose tests have ended."""

    def __init__(self, poll: select.poll) -> None:
        self._poll = poll
        # By the descriptor of a program its process id and where to tell its status, and by the latter its process id.
        self._ends: dict[int, tuple[int, int]] = {}
        self._tells: dict[int, int] = {}

    def add(self, program: int, tells: int) -> None:
        ended = os.pidfd_open(program)
        self._ends[ended], self._tells[tells] = (program, tells), program
        self._poll.register(ended, select.POLLIN)
        self._poll.register(tells, 0)  # that its other end is closed is told without being asked for

    def look_at(self, descriptor: int) -> None:
        if descriptor in self._tells:
            self._poll.unregister(descriptor)
            _kill(self._tells[descriptor])
        elif descriptor in self._ends:
            program, tells = self._ends.pop(descriptor)
            self._poll.unregister(descriptor)
            status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
            with contextlib.suppress(BrokenPipeError):
                os.write(tells, str(status).ljust(_TOLD).encode())
            with contextlib.suppress(KeyError):
                self._poll.unregister(tells)
            del self._tells[tells]
            os.close(tells)
            os.close(descriptor)

    def end(self) -> None:
        for program in self._tells.values():
            _kill(program)

    def close(self) -> None:
        """In a program, which has nothing to do with the others."""
        for descriptor in (*self._ends, *self._tells):
            os.close(descriptor)


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
    _make_once()
    gc.freeze()  # else each program looks through all of it for garbage before it ends
    _next_program(socket.socket(fileno=int(sys.argv[1])))
    from harmonia_py.cli import main

    try:
        returned = main()
    except SystemExit as ended:  # of the parser of arguments, which has said why
        returned = int(ended.code or 0)
    _end(returned)
