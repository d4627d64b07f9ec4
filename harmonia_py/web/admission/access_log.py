"""One line for each request, when it has ended; written a few at a time, because a write costs as much as an answer."""

import asyncio
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

# A line is seen this much later at the most, in seconds; a worker that is killed takes the last ones with it.
FLUSH_SECONDS: Final = 0.1
_FLUSH_LINES: Final = 512


class Entry(NamedTuple):
    """One request: `target` is as it came, `size` counts the bytes that were sent, headers included."""

    client: str
    method: str
    target: str
    status: int
    size: int
    seconds: float


class AccessLog:
    """The access log of one worker, as plain lines or as one JSON object a line.

    Args:
        json_lines: whether lines are JSON; otherwise they are plain.
        stamp: the beginning of a plain line; empty by default.
        write: takes a few whole lines.
    """

    def __init__(
        self,
        *,
        json_lines: bool,
        stamp: Callable[[], str] = str,
        write: Callable[[str], object],
    ) -> None:
        self._format = _json_line if json_lines else lambda entry: stamp() + _plain_line(entry)
        self._write = write
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: Entry) -> None:
        """Note one request."""
        self._lines.append(self._format(entry))
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write the noted lines."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            self._write("".join(lines))


def _plain_line(entry: Entry) -> str:
    client, method, target, status, size, seconds = entry
    return f'info: {client} "{method} {_printable(target)}" {status} {size} {seconds * 1000:.1f}ms\n'


def _json_line(entry: Entry) -> str:
    fields = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "info",
        "logger": "access",
        "client": entry.client,
        "method": entry.method,
        "path": entry.target,
        "status": entry.status,
        "bytes": entry.size,
        "milliseconds": round(entry.seconds * 1000, 3),
        "process": os.getpid(),
    }
    return json.dumps(fields) + "\n"


def _printable(text: str) -> str:
    """`text` as it is, or escaped when it could break a line or move a terminal's cursor."""
    return text if text.isascii() and text.isprintable() and '"' not in text else json.dumps(text)[1:-1]
