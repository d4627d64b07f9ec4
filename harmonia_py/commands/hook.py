"""`harmonia-py hook`: pushes what builds make, without a build that waits: a queue, and the service that empties it.

`hook add` runs in every build: `start` does it before this is imported, unless there is something to say about it.
"""

import argparse
import os
import re
import time
from pathlib import Path
from typing import Final

from harmonia_py.client.push_queue import PushQueue
from harmonia_py.client.queue_entry import queue_directory
from harmonia_py.commands.shared.options import add_cache
from harmonia_py.commands.shared.parser import Parser, add_deadline
from harmonia_py.errors import ConfigError

_DEADLINE_SECONDS: Final = 60.0
# Name, path, and for a hash that was known before, how it is made and what it is; no output has a quote in its name.
_OUTPUT: Final = re.compile(r'\("[^"]*","([^"]+)","[^"]*","[^"]*"\)')
_DERIVATION: Final = re.compile(r'Derive\(\[(?:\("[^"]*","[^"]*","[^"]*","[^"]*"\),?)+\]')


def add_arguments(parser: Parser) -> None:
    """The arguments: the queue, and the commands on it."""
    parser.describe(
        """
        Push what builds make. Nix runs a `post-build-hook` after each build and waits for it, so the hook only writes
        down what was built, and a service pushes it. What is written down outlives a restart of the machine, of the
        service and of the server. What cannot be pushed is set aside with its reason and keeps nothing waiting.""",
        ("harmonia-py hook add", "in a post-build-hook: what $OUT_PATHS names, written down"),
        ("harmonia-py hook run team", "the service: push what was written down, until SIGTERM, and then the rest"),
        ("harmonia-py hook status", "what waits, and what was set aside"),
    )
    verbs = parser.add_actions()
    add = verbs.add_parser("add", help="write down store paths; unless some are named, those that Nix tells its hook")
    add.add_argument("paths", metavar="PATH", nargs="*", help="a store path in full")
    run_ = verbs.add_parser("run", help="push what is written down")
    add_cache(run_)
    run_.add_argument("--drain", action="store_true", help="end when nothing is left")
    add_deadline(run_, _DEADLINE_SECONDS, "after SIGTERM, or with --drain")
    status = verbs.add_parser("status", help="say what waits, and what was set aside")
    status.add_argument("--json", action="store_true", dest="as_json", help="for scripts")
    for verb in (add, run_, status):
        verb.add_argument("--queue", metavar="DIRECTORY", type=Path, help="where the queue is; see the manual")


def run(options: argparse.Namespace) -> int:
    """Do it."""
    queue = PushQueue(Path(options.queue or queue_directory("queue", os.environ)))
    if options.action == "add":
        paths = options.paths or os.environ.get("OUT_PATHS", "").split() or _outputs(os.environ.get("DRV_PATH"))
        if not paths:
            raise ConfigError("nothing to write down: name store paths, or let Nix set OUT_PATHS")
        queue.add(paths)
    elif options.action == "status":
        _status(queue, as_json=options.as_json)
    else:
        import asyncio  # noqa: PLC0415

        return asyncio.run(_run(queue, options))
    return 0


def _outputs(derivation: str | None) -> list[str]:
    """The output paths of a derivation; none where there is no such file, or it does not say.

    Nix 2.8.0, which Debian 12 has, gives its hook `DRV_PATH`, and an `OUT_PATHS` that is empty.

    Source: `Derivation::unparse` in `src/libstore/derivations.cc` of Nix.
    """
    if not derivation:
        return []
    try:
        text = Path(derivation).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    begin = _DERIVATION.match(text)
    return [] if begin is None else _OUTPUT.findall(begin[0])


def _status(queue: PushQueue, *, as_json: bool) -> None:
    from harmonia_py.commands.shared.progress import count, messages, print_json  # noqa: PLC0415

    state = queue.state()
    if as_json:
        print_json({"waiting": state.waiting, "oldest": state.oldest, "aside": dict(state.aside)})
        return
    console = messages()
    age = "" if state.oldest is None else f", the oldest for {time.time() - state.oldest:.0f} s"
    console.print(f"{count(state.waiting, 'build')} waiting{age}; {count(len(state.aside), 'path')} set aside")
    for path, reason in state.aside:
        console.print(f"  {path}: {reason}", markup=False)


async def _run(queue: PushQueue, options: argparse.Namespace) -> int:
    from harmonia_py.commands.shared.queue_service import QueueService  # noqa: PLC0415

    service = QueueService(queue, options.cache)
    service.end_at_signals()
    if options.drain:
        service.ending.set()
    left = await service.run(options.deadline)
    return 0 if left.is_empty and not left.aside else 1
