"""`harmonia-py watch-exec`: runs a command, and pushes what comes into the store meanwhile."""

import argparse
import asyncio
import logging
import signal
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from harmonia_py.client.draining import Drained
from harmonia_py.client.push_queue import PushQueue
from harmonia_py.commands.shared.options import add_cache
from harmonia_py.commands.shared.parser import Parser, add_deadline
from harmonia_py.commands.shared.progress import print_failures
from harmonia_py.commands.shared.queue_service import QueueService
from harmonia_py.errors import ConfigError, HarmoniaError, describe_os_error

_log = logging.getLogger(__name__)

_DEADLINE_SECONDS: Final = 600.0
_NOT_PUSHED: Final = 1
# Added to the number of a signal: the status that a shell gives for a command that the signal has ended.
_BY_SIGNAL: Final = 128


def add_arguments(parser: Parser) -> None:
    """The arguments: the cache, and the command to run."""
    parser.describe(
        """
        Run a command, such as a build, and push what comes into the store meanwhile, while it goes on; the rest when it
        has ended. The exit status is that of the command; when that is 0, it is 1 unless everything is served.""",
        ("harmonia-py watch-exec team -- nix-build -A hello", "what this builds is pushed as it is built"),
        ("harmonia-py watch-exec team -- make test", "and so is what anything below this builds"),
    )
    add_deadline(parser, _DEADLINE_SECONDS, "when the command has ended")
    add_cache(parser)
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="and its arguments, behind --")


def run(options: argparse.Namespace) -> int:
    """Run it."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        options.usage("name a command behind --")
    return asyncio.run(_run(options, command))


async def _run(options: argparse.Namespace, command: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="harmonia-py-") as name:
        queue = PushQueue(Path(name))
        service = QueueService(queue, options.cache)
        ended: list[int] = []
        try:
            execute = partial(_execute, command, service, ended)
            drained = await service.run_watching(options.deadline, seen=None, until=execute)
        except HarmoniaError as error:
            if not ended:
                raise
            print_failures([str(error)])
            return ended[0] or _NOT_PUSHED
        _say(drained, queue)
    return ended[0] or (0 if drained.is_empty and not drained.aside else _NOT_PUSHED)


async def _execute(command: Sequence[str], service: QueueService, ended: list[int]) -> None:
    """Run a command to its end, also when its builds can no longer be pushed; its status is added to `ended`."""
    try:
        process = await asyncio.create_subprocess_exec(*command)
    except OSError as error:
        raise ConfigError(f"{command[0]}: {describe_os_error(error)}") from None

    def handle(number: int) -> None:
        if process.returncode is not None:
            service.give_up()
        elif number != signal.SIGINT:  # a terminal sends that to the command as well
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, handle, number)
    try:
        await process.wait()
    except asyncio.CancelledError:
        # A build of hours is worth more than what it was to be pushed with.
        _log.error("what is built is no longer pushed; the command goes on")
        await process.wait()
        raise
    finally:
        if (status := process.returncode) is not None:
            ended.append(_BY_SIGNAL - status if status < 0 else status)


def _say(drained: Drained, queue: PushQueue) -> None:
    print_failures([f"{path}: {reason}" for path, reason in queue.state().aside])
    if not drained.is_empty:
        print_failures(["the rest was not pushed in time"])
