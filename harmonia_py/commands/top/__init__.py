"""`harmonia-py top`: the metrics of a running server, in a terminal, worked out from two readings."""

import argparse
from pathlib import Path
from typing import Final

from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.top.screen import top

_MIN_SECONDS: Final = 0.1  # faster than an eye
_MAX_SECONDS: Final = 3600.0  # slower than patience


def add_arguments(parser: Parser) -> None:
    """The options: the server, and the seconds between two questions."""
    parser.describe(
        """
        Show requests, bytes, latencies, the work of every worker and every upstream, as they are now. It reads the
        server's /metrics; `q` or Ctrl-C ends it.""",
        ("harmonia-py top", "the server on this machine"),
        ("harmonia-py top https://cache.example.org --once", "one look at another, for a file or a script"),
    )
    parser.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        default="http://localhost:5000",
        help="the server (default: http://localhost:5000)",
    )
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="with the token that opens the server")
    parser.add_argument("--once", action="store_true", help="print the figures of one interval and end")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object for each interval")
    parser.add_argument(
        "-i", "--interval", metavar="SECONDS", type=_seconds, default=2.0, help="between two looks (default: 2)"
    )


def run(options: argparse.Namespace) -> None:
    """Show the metrics until interrupted, or once."""
    top(
        options.url,
        token_file=options.token_file,
        interval=options.interval,
        once=options.once,
        as_json=options.as_json,
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {_MIN_SECONDS:g} to {_MAX_SECONDS:g}")
    return seconds
