"""`Making`: the files that a process makes by recipes, a few at a time, whichever cache they are for."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from harmonia_py.errors import (
    FormatError,
    HarmoniaError,
    Overloaded,
    PushConflict,
    PushRefused,
    PushTooLarge,
    QuotaExceeded,
    SessionEnded,
    StorageError,
    StorageFull,
)
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.push.checking import Checks

# Each takes some 100 MB for the longest recipe, and a core.
_AT_ONCE: Final = 2
# Recipes that arrive, wait, or are made. One that waits holds up to 8 MiB of memory, and 64 MiB of the disk.
_MOST: Final = 48
_MOST_OF_ONE: Final = 16
# The kinds of errors that other workers tell a client as they are, each by its name. Of all others they say that the
# storage could not, which clients answer by asking again.
_KINDS: Final[Mapping[str, type[HarmoniaError]]] = {
    kind.__name__: kind
    for kind in (
        FormatError,
        PushConflict,
        PushTooLarge,
        SessionEnded,
        PushRefused,
        QuotaExceeded,
        Overloaded,
        StorageFull,
        StorageError,
    )
}
_MAX_MESSAGE: Final = 1000


class Making:
    """The recipes that this process has in hand. It belongs to the event loop in which it is used.

    Args:
        texts: where workers tell each other which files were not made, and why.

    Attributes:
        checks: what is being made, which goes on whether its client waits or not.
        turn: is held while a file is made.
    """

    def __init__(self, texts: SharedTexts) -> None:
        self.checks = Checks()
        self.turn = asyncio.Semaphore(_AT_ONCE)
        self._held: Counter[str] = Counter()
        self._texts = texts

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
        self._texts.remove(_name(key))

    def fails(self, key: str, error: HarmoniaError) -> None:
        """Remember why a file was not made: its client may ask only when that is over, and another worker."""
        kind = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KINDS), StorageError.__name__)
        self._texts.put(_name(key), f"{kind} {error}"[:_MAX_MESSAGE].encode(errors="replace"))

    def failure(self, key: str) -> HarmoniaError | None:
        """Why the last attempt under this key failed, in whichever worker; None when none did."""
        text = self._texts.get(_name(key))
        if text is None:
            return None
        kind, _, message = text.decode(errors="replace").partition(" ")
        return _KINDS[kind](message)


def _name(key: str) -> str:
    return f"recipe {key}"
