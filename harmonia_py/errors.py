"""What can go wrong so that the answer to a client depends on it, as one tree.

    HarmoniaError
    ├── FormatError                 text or bytes from outside do not parse
    ├── ConfigError                 harmonia.toml, the environment or the command line is wrong
    ├── AccessError                 the principal of a request may not do what it asks for
    │   ├── NotAuthenticated        it has no credential, or one that is good for nothing
    │   └── NotPermitted            its credential is good, but not for this
    ├── PushRefused                 what is pushed cannot be taken, and sending it again would not help
    │   ├── PushConflict            what has to be there first is not, or something else is in its place
    │   ├── PushTooLarge            it is larger than what this cache takes
    │   ├── SessionEnded            the session that it is part of has ended
    │   └── LengthRequired          it does not say how long it is
    ├── QuotaExceeded               the cache that it is for is full
    ├── DaemonError                 the nix-daemon, or the database that stands in for it, cannot tell
    │   ├── DaemonUnreachable       no answer on the socket, or not in time
    │   ├── DaemonProtocolError     it answers something that is not the worker protocol
    │   └── DaemonRefused           it understood, and said no
    ├── UpstreamError               another cache cannot tell
    │   ├── UpstreamUnreachable     no answer, or not in time, or it says that it cannot answer now
    │   ├── UpstreamProtocolError   it answers something that no binary cache answers
    │   └── UpstreamUntrusted       what it said is not signed by a key we trust
    ├── StorageError                files that should be there cannot be read or written
    │   ├── StorageFull
    │   └── CatalogError            the catalog is damaged, or of a newer release
    ├── Overloaded                  more is asked of this server than it does at once; later it can tell
    └── StorePathChanged            a store path is not what the store says it is: vanished, or of another size

Absence is never an exception: it is `None`. The messages of `AccessError`, `PushRefused` and `QuotaExceeded` are for
the client: one line that says what to do, and nothing of the machine. `web/http/errors.py` maps each leaf to its
statuses. Two kinds of exceptions are not here but in the module that raises them: a refinement of one of these, which
has the same status, and one that is always caught before there is an answer, such as `BeingDeleted` of `catalog/nars`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


class HarmoniaError(Exception):
    """The root of the tree."""


class FormatError(HarmoniaError):
    """Text or bytes from outside do not parse."""


class ConfigError(HarmoniaError):
    """The message names the file, the key, and what is wrong with it."""


class AccessError(HarmoniaError):
    """The principal of a request may not do what it asks for; the client is told the message, if there is one."""


class NotAuthenticated(AccessError):
    """The request has no credential, or one that is good for nothing."""


class NotPermitted(AccessError):
    """The request has a good credential, which does not allow this."""


class PushRefused(HarmoniaError):
    """A push is refused for good, also when it is sent again; the client is told the message."""


class PushConflict(PushRefused):
    """Something that a push needs first is not here, or something else is in its place."""


class PushTooLarge(PushRefused):
    """A pushed file is larger than this cache takes."""


class SessionEnded(PushRefused):
    """The session that a push is part of has ended, or was never begun: what it was told holds no longer."""


class LengthRequired(PushRefused):
    """A pushed body does not say its length."""


class QuotaExceeded(HarmoniaError):
    """The cache that something is pushed to is full; the client is told the message."""


class DaemonError(HarmoniaError):
    """The nix-daemon cannot tell."""


class DaemonUnreachable(DaemonError):
    """The daemon does not answer on its socket, or not in time."""


class DaemonProtocolError(DaemonError):
    """The daemon sent something that is not the worker protocol; the connection is lost."""


class DaemonRefused(DaemonError):
    """The daemon answered a request with an error of its own; the connection is still good."""


class UpstreamError(HarmoniaError):
    """An upstream cache cannot tell.

    Attributes:
        status: of the HTTP answer that said so; None when there was no answer, or another one than a status.
    """

    status: int | None = None


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
    """An answer of an upstream has no signature by a key that is trusted for it."""


class StorageError(HarmoniaError):
    """Files that should be there cannot be read or written."""


class StorageFull(StorageError):
    """No space is left where blobs are kept, or nothing may be written there any more."""


class CatalogError(StorageError):
    """The catalog is damaged, or was used by a newer release; trying again does not help."""


class Overloaded(HarmoniaError):
    """More is asked of this server than it does at once. The client is told when to come back."""


class StorePathChanged(HarmoniaError):
    """A store path is not what the store says it is: it vanished, or has another size."""


@contextmanager
def naming(what: str, kind: type[Exception] = ConfigError) -> Iterator[None]:
    """Raise a `FormatError` as an error of another kind, which says what it is that does not parse."""
    try:
        yield
    except FormatError as error:
        raise kind(f"{what}: {error}") from None


def describe_os_error(error: OSError) -> str:
    """`file: what is wrong` in words: without the number and the quotes of Python's own text."""
    reason = reason_of(error)
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def reason_of(error: Exception) -> str:
    """What is wrong in words, and without the name of a file: for a message that names it already."""
    if isinstance(error, UnicodeError):
        return "it is not text"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
