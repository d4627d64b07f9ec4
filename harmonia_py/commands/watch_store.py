"""`harmonia-py watch-store`: pushes what comes into the store of this machine, for as long as it runs."""

import argparse
import asyncio
import os
from pathlib import Path
from typing import Final

from harmonia_py.client.push_queue import PushQueue
from harmonia_py.client.queue_entry import queue_directory
from harmonia_py.commands.shared.options import add_cache
from harmonia_py.commands.shared.parser import Parser, add_deadline
from harmonia_py.commands.shared.queue_service import QueueService

_DEADLINE_SECONDS: Final = 60.0


def add_arguments(parser: Parser) -> None:
    """The arguments: the cache, and the file that notes how far the store was seen."""
    parser.describe(
        """
        Push what comes into the store of this machine, built, added or copied, with all that it needs; derivations are
        left out. A later watch goes on where this one ends: what came in between is pushed as well. What cannot be
        pushed is set aside with its reason, and `harmonia-py hook status --queue DIRECTORY` shows it.""",
        ("harmonia-py watch-store team", "until SIGTERM, and then the rest"),
    )
    add_cache(parser)
    parser.add_argument("--queue", metavar="DIRECTORY", type=Path, help="where the queue is; see the manual")
    add_deadline(parser, _DEADLINE_SECONDS, "after SIGTERM")


def run(options: argparse.Namespace) -> int:
    """Watch; exit status 1 when something is left, or was set aside."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    directory = Path(options.queue or queue_directory("watch", os.environ))
    service = QueueService(PushQueue(directory), options.cache)
    service.end_at_signals()
    drained = await service.run_watching(options.deadline, seen=directory / "seen")
    return 0 if drained.is_empty and not drained.aside else 1
