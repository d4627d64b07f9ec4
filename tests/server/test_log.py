"""A record is one line, whatever a client put into it."""

import json
import logging
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from harmonia_py.server import log

NASTY: Final = 'a\r\nb\x1b[31m\x00\x7f\x9b"é\u2028\udcff'


def record(message: str, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("harmonia_py.test", level, __file__, 1, message, arguments, None)


def test_a_plain_line_is_the_level_and_the_message() -> None:
    formatter = log.PlainFormatter()
    assert formatter.format(record("%s served", "narinfo")) == "info: narinfo served"
    assert formatter.format(record("careful", level=logging.WARNING)) == "warning: careful"


def test_the_lines_of_a_server_begin_with_the_time() -> None:
    """A log in a file said what had happened, and never when."""
    before = datetime.now(UTC)
    line = log.PlainFormatter(log.stamp_for({})).format(record("served"))
    stamp, _, rest = line.partition(" ")
    assert rest == "info: served"
    assert stamp.endswith("Z")
    said = datetime.fromisoformat(stamp)
    assert before - timedelta(milliseconds=1) <= said <= datetime.now(UTC)


def test_a_stamp_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = log.Stamp()
    seen = []
    for nanoseconds in (1_999_999_999, 2_000_000_000, 2_001_000_000):
        monkeypatch.setattr(time, "time_ns", lambda now=nanoseconds: now)
        seen.append(stamp())
    assert seen == [f"1970-01-01T00:00:0{text}Z " for text in ("1.999", "2.000", "2.001")]


def test_the_journal_has_a_time_of_its_own(tmp_path: Path) -> None:
    program = """if True:
        import os, sys
        from harmonia_py.server import log
        about = os.fstat(2)
        sys.exit(bool(log.stamp_for({"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"})()))
    """
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0
    # Standard error leads elsewhere than the journal, of which the variable still tells.
    assert log.stamp_for({"JOURNAL_STREAM": "1:2"})() != ""


def test_a_plain_line_has_nothing_in_it_that_ends_a_line_or_moves_a_cursor() -> None:
    line = log.PlainFormatter().format(record("%s", NASTY))
    assert line == 'info: a\\r\\nb\\x1b[31m\\x00\\x7f\\x9b"é\\u2028\\udcff'


def test_a_traceback_follows_its_line() -> None:
    try:
        int("why")
    except ValueError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    plain = log.PlainFormatter().format(failed)
    assert plain.startswith("info: failed\nTraceback ")
    assert plain.endswith(": 'why'")
    line = log.JsonFormatter().format(failed)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith(": 'why'")


def test_a_json_line_has_the_message_and_the_fields_of_the_record() -> None:
    made = record("%s", NASTY, level=logging.ERROR)
    made.fields = {"client": "::1", "bytes": 3}
    line = log.JsonFormatter().format(made)
    assert line.isascii()
    assert line.isprintable()
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert isinstance(entry.pop("process"), int)
    assert entry == {"level": "error", "logger": "harmonia_py.test", "message": NASTY, "client": "::1", "bytes": 3}


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("error", ["error"]),
        ("warn", ["error", "warning"]),
        ("info", ["error", "warning", "info"]),
        ("debug", ["error", "warning", "info", "debug"]),
        ("trace", ["error", "warning", "info", "debug"]),
    ],
)
def test_the_log_goes_to_standard_error_from_its_level_on(level: str, seen: list[str]) -> None:
    program = f"""
import logging
from harmonia_py.server import log
log.set_up(level={level!r}, json_lines=False, access_log=True)
for level in ("error", "warning", "info", "debug"):
    getattr(logging.getLogger("harmonia_py.x"), level)("said")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"{name}: said" for name in seen]
