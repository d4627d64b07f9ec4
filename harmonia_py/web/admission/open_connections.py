"""The open connections of a worker, by the client that each counts for, and which of them makes room for a new one."""

from collections import defaultdict
from collections.abc import Callable
from typing import Final, Protocol

# A connection that was used within this time may be used again while it is being closed.
_IDLE_SECONDS: Final = 1.0


class Connection(Protocol):
    """A connection that is open, as `OpenConnections` sees it."""

    @property
    def idle_since(self) -> float | None:
        """Since when, by the loop's clock, it waits for a request; None while it does not."""

    def force_close(self) -> None:
        """Close it."""


class OpenConnections:
    """The connections that are open. One that is being closed to make room is counted no longer.

    Args:
        clock: seconds, as in `Connection.idle_since`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._share_of: dict[Connection, str | None] = {}
        self._of: defaultdict[str, set[Connection]] = defaultdict(set)
        self._leaving: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._share_of) - len(self._leaving)

    def count(self, share: str) -> int:
        """How many connections count for this client."""
        connections = self._of.get(share, set())
        return len(connections) - len(connections & self._leaving)

    def add(self, connection: Connection, share: str | None) -> None:
        """Note a connection; `share` is the client that it counts for, None for one that may have any number."""
        self._share_of[connection] = share
        if share is not None:
            self._of[share].add(connection)

    def remove(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        share = self._share_of.pop(connection, None)
        self._leaving.discard(connection)
        if share is not None:
            self._of[share].discard(connection)
            if not self._of[share]:
                del self._of[share]

    def close_an_idle_one(self, share: str | None = None) -> bool:
        """Close the connection that has been idle for longest, of one client or of all.

        Returns:
            False when none has been idle for a while.
        """
        longest, since = None, self._clock() - _IDLE_SECONDS
        for connection in self._share_of if share is None else self._of.get(share, ()):
            idle_since = connection.idle_since
            if idle_since is not None and idle_since < since and connection not in self._leaving:
                longest, since = connection, idle_since
        if longest is None:
            return False
        self._leaving.add(longest)
        longest.force_close()
        return True
