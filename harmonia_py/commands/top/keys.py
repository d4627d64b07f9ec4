"""The keys that the user types while metrics are shown."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_END: Final = b"qQ"


@contextmanager
def key_that_ends() -> Iterator[Callable[[float], bool]]:
    """A function that waits for so many seconds, or until `q` is typed, and returns whether it was.

    The terminal hands out each key at once, and shows none, until the context ends. Where standard input is no
    terminal, nothing is read.
    """
    if not sys.stdin.isatty():
        yield sleep
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield lambda seconds: _is_ended(fd, seconds)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def sleep(seconds: float) -> bool:
    """Wait for so many seconds, which no key ends; returns False."""
    time.sleep(seconds)
    return False


def _is_ended(fd: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        typed = os.read(fd, 64)
        # No bytes: the terminal has gone.
        if not typed or any(key in _END for key in typed):
            return True
    return False
