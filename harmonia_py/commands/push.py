"""`harmonia-py push`: store paths and all that they need, sent to a cache, and seen to be served."""

import argparse
import asyncio
import gc
import json
import os
import sys
from collections.abc import Sequence

from rich.filesize import decimal
from rich.progress import Progress

from harmonia_py.client.http import PATIENCE_SECONDS
from harmonia_py.client.outcomes import Outcome, State, Summary
from harmonia_py.commands.shared.options import add_cache
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.path_arguments import parse_store_path
from harmonia_py.commands.shared.progress import count, messages, print_failures, progress_bar
from harmonia_py.config.logins import find_cache
from harmonia_py.wiring.local_paths import store_config
from harmonia_py.wiring.push_client import push


def add_arguments(parser: Parser) -> None:
    """The arguments: the cache, and the store paths."""
    parser.describe(
        """
        Push store paths and their closures to a cache. One question tells what it lacks, and that is sent in parallel.
        What was sent before a push was interrupted is not sent again. Exit status 0: everything is served, for which
        the cache was asked at the end as a substituter asks.""",
        ("harmonia-py push team ./result", "what was just built, and all that it needs"),
        ("nix-build | harmonia-py push team --stdin", "the paths that another command prints"),
        (
            "harmonia-py push https://cache.example.org/team ./result",
            "without a login, with the token in HARMONIA_PY_TOKEN",
        ),
        ("harmonia-py push team ./result --pin release", "and keep it, until another path has that name"),
    )
    add_cache(parser)
    parser.add_argument("paths", metavar="PATH", nargs="*", help="a store path, or a link to one such as ./result")
    parser.add_argument("--stdin", action="store_true", help="read more paths from standard input, separated by space")
    parser.add_argument("-j", "--jobs", metavar="N", type=int, default=8, help="paths sent at a time; 8 unless given")
    parser.add_argument(
        "--level", metavar="N", type=int, default=3, help="of zstd, 1 to 19: smaller files, more time; 3 unless given"
    )
    parser.add_argument(
        "--retry-for",
        metavar="SECONDS",
        type=float,
        default=PATIENCE_SECONDS,
        help="how long a server that is away is waited for, each time; 120 unless given",
    )
    parser.add_argument(
        "--pin", metavar="NAME", help="let the pin of this name lead to PATH, which keeps it; takes the permission pin"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="print a JSON object a line for each path")


def run(options: argparse.Namespace) -> int:
    """Push them; exit status 1 when something is not served."""
    if not options.paths and not options.stdin:
        options.usage("name store paths, or --stdin")
    if not 1 <= options.jobs <= 64 or not 1 <= options.level <= 19:  # noqa: PLR2004  # as the help says
        options.usage("--jobs is from 1 to 64, --level from 1 to 19")
    cache = find_cache(options.cache, os.environ)
    store_dir = store_config(os.environ).store_dir
    texts = [*options.paths, *(sys.stdin.read().split() if options.stdin else ())]
    roots = list(dict.fromkeys(parse_store_path(text, store_dir) for text in texts))
    if options.pin is not None and len(roots) != 1:
        options.usage("--pin is for one path: push the others without it")
    pins = {} if options.pin is None else {options.pin: roots[0]}
    # What was imported stays: looking for garbage among it, again and again, would take a tenth of the time.
    gc.freeze()
    with progress_bar(messages()) as progress:
        pushing = push(
            cache,
            roots,
            _Bar(progress),
            jobs=options.jobs,
            level=options.level,
            pins=pins,
            environment=os.environ,
            patience=options.retry_for,
        )
        summary = asyncio.run(pushing)
    if options.as_json:
        _print_lines(summary)
    _say(summary, cache.url)
    return 0 if summary.is_good else 1


class _Bar:
    """A bar of the bytes that are read, on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = self._progress.add_task("looking what is missing", total=None)
        self._total = 0

    def planned(self, paths: int, nar_bytes: int) -> None:
        """As in `Events`."""
        self._total += nar_bytes
        self._progress.update(self._task, total=self._total, description=f"pushing {count(paths, 'path')}")

    def advanced(self, nar_bytes: int) -> None:
        """As in `Events`."""
        self._progress.advance(self._task, nar_bytes)


def _print_lines(summary: Summary) -> None:
    """A JSON object a line: one for each path, and the last for all."""
    lines = [json.dumps(_fields(outcome)) for outcome in summary.outcomes]
    counts = {state.value: summary.count(state) for state in State}
    told = {
        "sent_bytes": summary.sent,
        "saved_bytes": summary.saved,
        "aborted": summary.aborted or None,
        "unpinned": summary.unpinned or None,
    }
    print(*lines, json.dumps({"summary": counts | told}), sep="\n")  # what a script reads


def _fields(outcome: Outcome) -> dict[str, object]:
    return {
        "path": str(outcome.path),
        "state": outcome.state.value,
        "reason": outcome.reason or None,
        "nar_size": outcome.nar_size,
        "sent_bytes": outcome.sent,
        "saved_bytes": outcome.saved,
    }


def _say(summary: Summary, url: str) -> None:
    """The summary, for people."""
    parts: Sequence[str] = [
        f"{summary.count(State.PUSHED)} pushed ({_sent(summary)})",
        f"{summary.count(State.PRESENT)} present",
        *([f"{n} upstream"] if (n := summary.count(State.UPSTREAM)) else []),
        *([f"{len(summary.failures)} failed"] if summary.failures else []),
    ]
    print_failures([f"{outcome.path}: {outcome.reason}" for outcome in summary.failures])
    if summary.unpinned:
        print_failures([f"the pin is not set: {summary.unpinned}"])
    messages().print(f"{url}: {', '.join(parts)}")


def _sent(summary: Summary) -> str:
    return decimal(summary.sent) + (f", {decimal(summary.saved)} were there in chunks" if summary.saved else "")
