"""Paths that come into the store of this machine are added to a queue, from which they are pushed."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from harmonia_py.client.push_queue import PushQueue
from harmonia_py.errors import HarmoniaError, StorageError, describe_os_error, reason_of
from harmonia_py.nix.store_path import StoreDir, StorePath

_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
# Paths in one entry of the queue; an entry goes when all of its paths are served.
_IN_AN_ENTRY: Final = 100


class Registrations(Protocol):
    """The port to a store that numbers its paths in the order in which they become valid, and uses no number twice.

    Raises everywhere:
        DaemonError: it cannot be asked.
    """

    async def last(self) -> int:
        """The number of the newest path; 0 when there is none."""

    async def after(self, number: int) -> tuple[Sequence[StorePath], int]:
        """The paths with greater numbers, in their order, and the greatest of these; `number` when there are none."""


class Watching:
    """Adds to a queue what comes into a store, but for derivations.

    Args:
        registrations: of the store.
        queue: where the paths are added.
        store_dir: of the paths.
        seen: a file with the number up to which the queue has been given the paths, so that a later watch begins there;
            None to begin with what comes from now on.
    """

    def __init__(
        self, registrations: Registrations, queue: PushQueue, store_dir: StoreDir, seen: Path | None = None
    ) -> None:
        self._registrations = registrations
        self._queue = queue
        self._store_dir = store_dir
        self._seen = seen
        self._number = 0

    async def begin(self) -> None:
        """Note where the store is now, or where the last watch ended.

        Raises:
            HarmoniaError: the store or the file cannot be read.
        """
        last = await self._registrations.last()
        before = None if self._seen is None else await asyncio.to_thread(_read, self._seen)
        # A greater number is one of another store, or of a path that has been collected.
        self._number = last if before is None or before > last else before
        if self._seen is not None:
            await asyncio.to_thread(_write, self._seen, self._number)

    async def run(self, ending: asyncio.Event) -> None:
        """Look every second until `ending` is set, and then once more.

        Raises:
            HarmoniaError: the queue cannot be written, or the store cannot be read at the end.
        """
        said = ""
        while not ending.is_set():
            try:
                await self.look()
                said = ""
            except HarmoniaError as error:  # the store is asked again, from the same number on
                if said != str(error):
                    said = str(error)
                    _log.warning("what comes into the store cannot be seen, or noted: %s", said)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await ending.wait()
        await self.look()

    async def look(self) -> None:
        """Add the paths that have come since the last look.

        Raises:
            HarmoniaError: the store cannot be read, or the queue not written.
        """
        paths, number = await self._registrations.after(self._number)
        wanted = [self._store_dir.join(path) for path in paths if not path.is_derivation]
        for start in range(0, len(wanted), _IN_AN_ENTRY):
            await asyncio.to_thread(self._queue.add, wanted[start : start + _IN_AN_ENTRY])
        if number != self._number and self._seen is not None:
            await asyncio.to_thread(_write, self._seen, number)
        self._number = number


def _read(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{file}: {reason_of(error)}") from None
    return int(text) if text.isdecimal() else None


def _write(file: Path, number: int) -> None:
    # Not made durable: after a power cut paths are added to the queue again, and pushed once all the same.
    hidden = file.with_name(f".{file.name}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden.write_text(f"{number}\n", encoding="ascii")
        hidden.replace(file)
    except OSError as error:
        raise StorageError(describe_os_error(error)) from None
