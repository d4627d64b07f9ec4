"""The program on a terminal of its own: `on_a_terminal(arguments, cwd=…, env=…)` is what a person would see."""

import os
import pty
import select
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import prefork

TIME_LIMIT: Final = 60.0


def on_a_terminal(
    arguments: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    status: int,
    size: tuple[int, int] = (24, 80),
    typed: tuple[bytes, bytes] | None = None,
) -> str:
    """Run `harmonia-py ARGUMENTS…`, to its end with `status`, on a terminal of so many lines and columns.

    `typed` is what has to be seen first, and the keys that are typed then.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, size)
    before = termios.tcgetattr(theirs)
    with open(theirs, "r+b", buffering=0, closefd=False) as terminal:
        process = prefork.start(*arguments, cwd=cwd, env=env, stdin=terminal, stdout=terminal, stderr=terminal)
    try:
        seen = b""
        deadline = time.monotonic() + TIME_LIMIT
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.05)[0]:
                seen += os.read(ours, 4096)
            if typed is not None and typed[0] in seen:
                os.write(ours, typed[1])
                typed = None
            assert time.monotonic() < deadline, seen
        assert process.wait(TIME_LIMIT) == status
        assert termios.tcgetattr(theirs) == before, "the terminal is left as it was found"
    finally:
        process.kill()
        os.close(theirs)
        os.close(ours)
    return seen.decode()
