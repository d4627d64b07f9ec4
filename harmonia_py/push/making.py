"""`Making`: the files that a process makes by recipes, a few at a time, whichever cache they are for."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from harmonia_py.errors import HarmoniaError, Overloaded
from harmonia_py.push.checking import Checks
from harmonia_py.runtime.bounded import Bounded

# Each takes some 100 MB for the longest recipe, and a core.
_AT_ONCE: Final = 2
# Recipes that arrive, wait, or are made. One that waits holds up to 8 MiB of memory, and 64 MiB of the disk.
_MOST: Final = 48
_MOST_OF_ONE: Final = 16
_MAX_FAILURES: Final = 256


class Making:
    """The recipes that this process has in hand. It belongs to the event loop in which it is used.

    Attributes:
        checks: what is being made, which goes on whether its client waits or not.
        turn: is held while a file is made.
    """

    def __init__(self) -> None:
        self.checks = Checks()
        self.turn = asyncio.Semaphore(_AT_ONCE)
        self._held: Counter[str] = Counter()
        self._failures: Bounded[str, HarmoniaError] = Bounded(_MAX_FAILURES)

    def take(self, principal: str) -> Callable[[], None]:
        """Take a recipe in hand, for a client of this principal; call what this returns when it is done with.

        Raises:
            Overloaded: there are too many, of all clients or of this principal's.
        """
        if self._held[principal] >= _MOST_OF_ONE or self._held.total() >= _MOST:
            raise Overloaded("many files are being made at this moment")
        self._held[principal] += 1
        is_held = True

        def give_back() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._held[principal] -= 1
                if not self._held[principal]:
                    del self._held[principal]

        return give_back

    def begins(self, key: str) -> None:
        """Forget how the last attempt under this key failed: another one begins."""
        self._failures.pop(key, None)

    def fails(self, key: str, error: HarmoniaError) -> None:
        """Remember why a file was not made: its client may ask only when that is over."""
        self._failures[key] = error

    def failure(self, key: str) -> HarmoniaError | None:
        """Why the last attempt under this key failed; None when none did."""
        return self._failures.get(key)
