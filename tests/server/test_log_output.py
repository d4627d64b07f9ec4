"""A log that is not read holds up neither workers nor their supervisor."""

import contextlib
import errno
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from harmonia_py.server.log_output import LogOutput

TIME_LIMIT: Final = 30.0


def dropped(lines: int) -> str:
    return f"({lines} dropped)\n"


@pytest.fixture(params=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """What is read from, and what is written to."""
    if request.param == "pipe":
        fds = os.pipe()
    else:
        reader, writer = socket.socketpair()
        fds = reader.detach(), writer.detach()
    yield fds
    for fd in fds:
        os.close(fd)


def read_to(fd: int, end: bytes) -> bytes:
    data = b""
    os.set_blocking(fd, True)
    while not data.endswith(end):
        data += os.read(fd, 65536)
    return data


def test_what_is_not_read_is_held_then_dropped_and_said(ends: tuple[int, int]) -> None:
    output = LogOutput(ends[1], dropped, max_held=10_000)
    lines = [f"{number:>6} {'x' * 92}\n" for number in range(20_000)]
    began = time.monotonic()
    for line in lines:
        output.write(line)
    assert time.monotonic() - began < TIME_LIMIT
    # A reader comes back: what was held is there, in order, and how much is missing.
    read = []
    thread = threading.Thread(target=lambda: read.append(read_to(ends[0], b"the end\n")))
    thread.start()
    deadline = time.monotonic() + TIME_LIMIT
    while thread.is_alive():
        output.write("the end\n")
        assert time.monotonic() < deadline
    thread.join()
    got = read[0].decode().splitlines(keepends=True)
    whole = [line for line in got if "x" in line]
    assert whole == lines[: len(whole)]
    (said,) = [line for line in got if "dropped" in line][:1]
    # Some of those that say that it is the end may be missing, too.
    assert int(said.removeprefix("(").partition(" ")[0]) >= len(lines) - len(whole)


def test_a_kernel_that_cannot_write_without_waiting_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def pwritev(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "pwritev", pwritev)
    reader, writer = os.pipe()
    try:
        output = LogOutput(writer, dropped, max_held=10_000)
        for _ in range(10_000):
            output.write("x" * 99 + "\n")
        os.set_blocking(reader, False)
        assert len(os.read(reader, 1_000_000)) >= 60_000
        output.write("again\n")
        assert b"dropped)\nagain\n" in os.read(reader, 1_000_000)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = LogOutput(writer, dropped)
    for _ in range(3):
        output.write("line\n")
    output.flush()
    os.close(writer)


def test_a_file_gets_every_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        output = LogOutput(file.fileno(), dropped, max_held=1000)
        for number in range(1000):
            output.write(f"{number}\n")
    assert (tmp_path / "log").read_text().splitlines() == [str(number) for number in range(1000)]


def test_a_child_does_not_write_what_its_parent_holds() -> None:
    reader, writer = os.pipe()
    output = LogOutput(writer, dropped, max_held=200_000)
    output.write("x" * 99_999 + "\n")  # more than a pipe holds
    pid = os.fork()
    if pid == 0:
        os.read(reader, 1_000_000)
        output.write("child\n")
        os._exit(0)
    os.waitpid(pid, 0)
    os.set_blocking(reader, False)
    assert os.read(reader, 1_000_000) == b"child\n"
    os.close(reader)
    os.close(writer)


def test_a_server_whose_log_is_not_read_goes_on(tmp_path: Path) -> None:
    """A pipe that is not read stopped every worker after 64 KiB of log, and the supervisor with its next message."""
    settings = tmp_path / "harmonia.toml"
    settings.write_text('workers = 1\nlog_format = "json"\n[cache]\ndirectory = "cache"\n')
    command = [sys.executable, "-m", "harmonia_py.cli", "serve", "--config", str(settings), "--bind", "127.0.0.1:0"]
    env = os.environ | {"STATE_DIRECTORY": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            port = _port(process)
            _ask(port, f"/{'a' * 3500}", 404, times=400)  # more than a megabyte of log
            # The supervisor has something to say as well.
            (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for _ in range(3):
                os.kill(int(worker), signal.SIGKILL)
                worker = _replacement(process.pid, worker)
            _ask(port, "/health", 200)
            _read_until_told(process, "starting another")
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIME_LIMIT) == 0
        finally:
            process.kill()


def _read_until_told(process: subprocess.Popen[bytes], ending: str) -> None:
    """Read the log to its end in a thread, from now on, and wait until the supervisor has said what it held back."""
    stderr, told = process.stderr, threading.Event()
    assert stderr is not None

    def read() -> None:
        for line in stderr:
            if b'"message"' in line and json.loads(line)["message"].endswith(ending):
                told.set()

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + TIME_LIMIT
    while not told.wait(0.1):
        assert time.monotonic() < deadline
        # What is held is written with the next message, if the reader has made room by then.
        process.send_signal(signal.SIGHUP)


def _port(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(rb"http://127\.0\.0\.1:(\d+)", line)
        if found is not None:
            return int(found[1])
    raise AssertionError("the server did not start")


def _ask(port: int, target: str, status: int, *, times: int = 1) -> None:
    """Ask so often over one connection."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIME_LIMIT)) as connection:
        for _ in range(times):
            connection.request("GET", target)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status


def _replacement(supervisor: int, before: str) -> str:
    deadline = time.monotonic() + TIME_LIMIT
    while time.monotonic() < deadline:
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        if children and before not in children:
            return children[0]
        time.sleep(0.01)
    raise AssertionError("no other worker was started")
