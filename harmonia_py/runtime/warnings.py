"""Warnings of what goes on being wrong."""

import logging
import time
from typing import Final

# Seconds between two warnings of the same thing.
_SECONDS: Final = 60.0


class RareWarning:
    """Says a warning once in a minute at most."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._silent_until = 0.0

    def say(self, message: str, *arguments: object) -> None:
        """Log it, unless one was logged a moment ago; `arguments` as in `logging`."""
        if self._is_due():
            self._log.warning(message, *arguments)

    def say_exception(self, message: str, *arguments: object) -> None:
        """As `say`, of the exception that is being handled: an error, with its traceback."""
        if self._is_due():
            self._log.exception(message, *arguments)

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._silent_until:
            return False
        self._silent_until = now + _SECONDS
        return True
