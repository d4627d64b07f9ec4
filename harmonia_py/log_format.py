"""How log records look: plain lines for people, or one JSON object a line. Both go to standard error."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

LEVELS: Final = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}


class PlainFormatter(logging.Formatter):
    """`<level> <message>`, without a time: journald and terminals have their own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback where there is one; a message never spans lines by itself."""
        text = f"{record.levelname.lower()}: {_one_line(record.getMessage())}"
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


def set_up(*, level: str, json_lines: bool, access_log: bool) -> None:
    """Make the root logger write to standard error. `level` is a key of `LEVELS`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if json_lines else PlainFormatter())
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)
    logging.getLogger("harmonia_py.access").disabled = not access_log
    # asyncio's own debug lines say nothing about serving.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _one_line(message: str) -> str:
    """`message` with everything escaped that could end a line or move a terminal's cursor."""
    if message.isprintable():
        return message
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in message])
