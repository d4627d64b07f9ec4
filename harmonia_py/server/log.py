"""The formats of log records: plain lines for people, or one JSON object a line. Both go to standard error."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from harmonia_py.server.log_output import LogOutput

LEVELS: Final = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}


class Stamp:
    """The beginning of a plain line: the time in UTC, to the millisecond, as RFC 3339 writes it, and a space."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        """The stamp of now. The access log has thousands of lines a second: the common part is made once a second."""
        milliseconds = time.time_ns() // 1_000_000
        second = milliseconds // 1000
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{milliseconds % 1000:03}Z "


def no_stamp() -> str:
    """An empty stamp, where lines are read at once or get their time from the journal."""
    return ""


class PlainFormatter(logging.Formatter):
    """`<time> <level>: <message>`, or without the time.

    Args:
        stamp: the text before the level.
    """

    def __init__(self, stamp: Callable[[], str] = no_stamp) -> None:
        super().__init__()
        self._stamp = stamp

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback where there is one; a message never spans lines by itself."""
        text = f"{self._stamp()}{record.levelname.lower()}: {_one_line(record.getMessage())}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """Time, level, logger and message, and the fields a record brings (`extra={"fields": {…}}`)."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object without line feeds."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up(
    *, level: str, json_lines: bool, access_log: bool, stamp: Callable[[], str] = no_stamp, waits: bool = True
) -> None:
    """Make the root logger write to standard error.

    Args:
        level: a key of `LEVELS`.
        json_lines: one JSON object a line, rather than plain lines.
        access_log: whether the logger of that name writes.
        stamp: begins plain lines.
        waits: for the reader of standard error, as a command does, rather than drop lines, as a server must.
    """
    formatter = _formatter(json_lines=json_lines, stamp=stamp)
    handler: logging.StreamHandler[Any] = logging.StreamHandler(sys.stderr if waits else output_of(formatter))
    handler.setFormatter(formatter)
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    logging.getLogger("harmonia_py.access").disabled = not access_log
    # asyncio's own debug lines say nothing about serving.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Write from now on what is as important as `level`, a key of `LEVELS`."""
    logging.getLogger().setLevel(LEVELS[level])


def output_of(formatter: logging.Formatter) -> LogOutput:
    """Standard error without waiting for its reader."""

    def describe_dropped(lines: int) -> str:
        text = "%d lines of the log were dropped, because standard error was not read in time"
        return formatter.format(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (lines,), None)) + "\n"

    return LogOutput(sys.stderr.fileno(), describe_dropped)


def access_output(*, json_lines: bool, stamp: Callable[[], str] = no_stamp) -> LogOutput:
    """The target of a worker's access log."""
    return output_of(_formatter(json_lines=json_lines, stamp=stamp))


def _formatter(*, json_lines: bool, stamp: Callable[[], str]) -> logging.Formatter:
    return JsonFormatter() if json_lines else PlainFormatter(stamp)


def stamp_for(environment: Mapping[str, str]) -> Callable[[], str]:
    """The beginning of a server's lines: nothing where the journal notes the time of each, else the time."""
    return no_stamp if _is_journal(environment.get("JOURNAL_STREAM")) else Stamp()


def _is_journal(stream: str | None) -> bool:
    """Whether standard error is what systemd.exec(5) says of `$JOURNAL_STREAM`: device and inode, with a colon."""
    about = os.fstat(sys.stderr.fileno())
    return stream == f"{about.st_dev}:{about.st_ino}"


def _one_line(message: str) -> str:
    """`message` with everything escaped that could end a line or move a terminal's cursor."""
    if message.isprintable():
        return message
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in message])
