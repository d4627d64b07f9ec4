"""Everything that can go wrong, as one tree.

    HarmoniaError
    ├── FormatError                 text or bytes from outside do not parse
    ├── ConfigError                 harmonia.toml, the environment or the command line is wrong
    ├── DaemonError                 the nix-daemon, or the database that stands in for it, cannot tell
    │   ├── DaemonUnreachable       nobody answers on the socket, or not in time
    │   ├── DaemonProtocolError     it answers something that is not the worker protocol
    │   └── DaemonRefused           it understood, and said no
    ├── UpstreamError               another cache cannot tell
    │   ├── UpstreamUnreachable     nobody answers, or not in time, or it says that it cannot answer now
    │   ├── UpstreamProtocolError   it answers something that no binary cache answers
    │   └── UpstreamUntrusted       what it said is not signed by a key we trust
    ├── StorageError                files that should be there cannot be read or written
    │   └── StorageFull
    └── StorePathChanged            a store path is not what the store says it is: vanished, or of another size

Absence is never an exception: it is `None`. `web/errors.py` maps each leaf to a status. A refinement that only one
module raises and catches lives in that module.
"""


class HarmoniaError(Exception):
    """The root of the tree."""


class FormatError(HarmoniaError):
    """Text or bytes from outside do not parse."""


class ConfigError(HarmoniaError):
    """The message names the file, the key, and what is wrong with it."""


class DaemonError(HarmoniaError):
    """The nix-daemon cannot tell."""


class DaemonUnreachable(DaemonError):
    """Nobody answers on the daemon's socket, or not in time."""


class DaemonProtocolError(DaemonError):
    """The daemon sent something that is not the worker protocol; the connection is lost."""


class DaemonRefused(DaemonError):
    """The daemon answered a request with an error of its own; the connection is still good."""


class UpstreamError(HarmoniaError):
    """An upstream cache cannot tell."""


class UpstreamUnreachable(UpstreamError):
    """The upstream does not answer, or not in time.

    Attributes:
        retry_after: seconds that it asked to be left alone; None when it did not.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UpstreamProtocolError(UpstreamError):
    """The upstream answers something no binary cache answers."""


class UpstreamUntrusted(UpstreamError):
    """What the upstream said carries no signature by a key that is trusted for it."""


class StorageError(HarmoniaError):
    """Files that should be there cannot be read or written."""


class StorageFull(StorageError):
    """No space is left where blobs are kept, or nothing may be written there any more."""


class StorePathChanged(HarmoniaError):
    """A store path is not what the store says it is: it vanished, or has another size."""
