"""A reload that a worker does not serve by yet: why, and when it is tried again."""

import logging
import time
from typing import Final

from msgspec import Struct

from harmonia_py.errors import HarmoniaError
from harmonia_py.server.settings import Settings
from harmonia_py.wiring.catalog import wants_catalog

_log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 5.0
"""When a reload that could not be opened is tried again, at first."""
# At most so much later each time: a try takes as long as a start, asks a bucket, and leaves a thread behind on a disk
# that does not answer.
_MAX_RETRY_SECONDS: Final = 60.0


class Reload(Struct, frozen=True):
    """The settings that a reload has read.

    Attributes:
        number: of the reload.
        settings: that it has read.
    """

    number: int
    settings: Settings


class Refusal:
    """The last reload, while a worker does not serve by it.

    Attributes:
        reload: to be tried again; None for none.
    """

    def __init__(self) -> None:
        self.reload: Reload | None = None
        self._said: str | None = None
        self._seconds = RETRY_SECONDS
        self._next_try = 0.0

    @property
    def may_have_begun_a_catalog(self) -> bool:
        """Whether a catalog that is there may be one that the reload needs and has begun to make."""
        return self.reload is not None and wants_catalog(self.reload.settings.config)

    def due(self) -> Reload | None:
        """The reload that is to be tried now."""
        return self.reload if time.monotonic() >= self._next_try else None

    def forget(self) -> None:
        """Begin anew: there is another reload, or this one is served by."""
        self.reload, self._said, self._seconds, self._next_try = None, None, RETRY_SECONDS, 0.0

    def note(self, reload: Reload, error: Exception) -> None:
        """Note that `reload` could not be opened."""
        self.reload = reload
        self._next_try = time.monotonic() + self._seconds
        self._seconds = min(2 * self._seconds, _MAX_RETRY_SECONDS)
        self.say(error, "; it is tried again until there is another reload")

    def say(self, error: Exception, what_follows: str = "") -> None:
        """Log why nothing was reloaded, once for tries that end in the same way."""
        said = repr(error)
        if said == self._said:
            return
        self._said = said
        if isinstance(error, HarmoniaError):
            words = "; ".join(str(error).splitlines())  # they are meant for people
            _log.error("not reloaded: %s%s", words, what_follows)
        else:
            _log.error("not reloaded%s", what_follows, exc_info=error)
