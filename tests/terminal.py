"""A program on a terminal of its own: `on_a_terminal(command, cwd=…, env=…)` is what a person would see."""

import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

TIME_LIMIT: Final = 60.0


def on_a_terminal(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], status: int) -> str:
    """Run `command`, which must end with `status`; standard output and standard error are one terminal."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=theirs, stderr=theirs)
        os.close(theirs)
        seen = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            seen += data
        assert process.wait(TIME_LIMIT) == status
    finally:
        os.close(ours)
    return seen.decode()
