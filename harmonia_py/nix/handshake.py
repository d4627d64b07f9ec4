"""The beginning of a conversation with a nix-daemon, and the log that comes before every reply.

Source: `src/libstore/worker-protocol-connection.cc` and `src/libstore/daemon.cc` of Nix; "Nix daemon protocol" in the
Nix manual. Versions 1.34 to 1.38 are spoken, that is Nix 2.8 and later, and Lix.

An `Exchange` is a request, ready to be sent, and the parser of everything that comes back for it. Two open a
connection: `greet`, then `introduce`. The operations are in `worker.py`.
"""

import re
from collections.abc import Callable
from enum import IntEnum
from typing import Final, Generic, TypeVar

from msgspec import Struct

from harmonia_py.errors import DaemonRefused, FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.realisation import DrvOutput
from harmonia_py.nix.store_path import StorePath
from harmonia_py.nix.wire import (
    Parser,
    read_bytes,
    read_count,
    read_string,
    read_strings,
    read_u64,
    write_strings,
    write_u64,
)

Value = TypeVar("Value")

FEATURE_REALISATION_WITH_PATH: Final = "realisation-with-path-not-hash"

# The features we understand; a daemon's others are left out of the session.
FEATURES: Final = frozenset({FEATURE_REALISATION_WITH_PATH})

_MAGIC_1: Final = 0x6E697863
_MAGIC_2: Final = 0x6478696F
_MAJOR: Final = 1
_MIN_MINOR: Final = 34
_MAX_MINOR: Final = 38

# From this version on a daemon throws at QueryRealisation without the feature, before it has read the arguments, and
# is out of step for ever. So does Lix, whose versions begin with 2.90.
_REALISATION_NEEDS_FEATURE: Final = (2, 35)

# A daemon has two features today; an activity has a handful of fields, an error some dozen lines of trace.
_MAX_FEATURES: Final = 1000
_MAX_FIELDS: Final = 10_000

_VERSION: Final = re.compile(r"(\d{1,9})\.(\d{1,9})", re.ASCII)
_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Frame(IntEnum):
    """The first word of what a daemon sends before its reply; LAST or ERROR come last."""

    NEXT = 0x6F6C6D67
    READ = 0x64617461
    WRITE = 0x64617416
    LAST = 0x616C7473
    ERROR = 0x63787470
    START_ACTIVITY = 0x53545254
    STOP_ACTIVITY = 0x53544F50
    RESULT = 0x52534C54


class Exchange(Struct, Generic[Value], frozen=True):
    """A request and the parser of its reply. The parser can run once: a second attempt needs a second exchange.

    Besides FormatError the parser of an operation raises DaemonRefused when the daemon answers with an error.
    """

    request: bytes
    reply: Parser[Value]


class Session(Struct, frozen=True):
    """The agreement of daemon and client.

    Attributes:
        minor: of the protocol's version, 1.`minor`.
        features: that both have.
        nix_version: as the daemon calls itself, such as `2.8.0`.
        trusted: whether the daemon trusts us; None when it does not say.
    """

    minor: int
    features: frozenset[str]
    nix_version: str
    trusted: bool | None

    @property
    def release(self) -> tuple[int, int]:
        """The first two numbers of the daemon's version; zeros when it has none."""
        match = _VERSION.match(self.nix_version)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def knows_realisation(self, output: DrvOutput) -> bool:
        """Whether this daemon can be asked for the realisation of `output`: there are two kinds of keys."""
        if FEATURE_REALISATION_WITH_PATH in self.features:
            return isinstance(output.derivation, StorePath)
        return isinstance(output.derivation, Hash) and (0, 0) < self.release < _REALISATION_NEEDS_FEATURE


def greet() -> Exchange[int]:
    """The first words; the reply is the minor version that both speak."""
    return Exchange(write_u64(_MAGIC_1) + write_u64(_MAJOR << 8 | _MAX_MINOR), _read_greeting())


def _read_greeting() -> Parser[int]:
    if (yield from read_u64()) != _MAGIC_2:
        raise FormatError("this is not a nix-daemon")
    version = yield from read_u64()
    if version >> 8 != _MAJOR or version & 0xFF < _MIN_MINOR:
        raise FormatError(
            f"the daemon speaks version {version >> 8}.{version & 0xFF} of the worker protocol; "
            f"{_MAJOR}.{_MIN_MINOR} (Nix 2.8) or later is needed"
        )
    return min(version & 0xFF, _MAX_MINOR)


def introduce(minor: int) -> Exchange[Session]:
    """The rest of the handshake, once `greet` has told the version."""
    obsolete = write_u64(0) + write_u64(0)  # CPU affinity and reserved space
    features = write_strings(sorted(FEATURES)) if minor >= 38 else b""
    return Exchange(features + obsolete, _read_introduction(minor))


def _read_introduction(minor: int) -> Parser[Session]:
    features = (yield from read_strings(_MAX_FEATURES)) if minor >= 38 else []
    nix_version = yield from read_string()
    trusted = None
    if minor >= 35:
        trusted = {1: True, 2: False}.get((yield from read_u64()))
    yield from read_log()
    return Session(minor, FEATURES.intersection(features), clean(nix_version), trusted)


def read_log() -> Parser[None]:
    """Everything that comes before a reply. What is not an error is dropped.

    Raises:
        DaemonRefused: the daemon answers with an error; no reply follows.
        FormatError: an unknown frame, or one that has no place in what we ask.
    """
    while (word := (yield from read_u64())) != Frame.LAST:
        if word == Frame.ERROR:
            raise DaemonRefused((yield from _read_error()))
        skip = _SKIP.get(word)
        if skip is None:
            raise FormatError("neither a log message nor a reply")
        yield from skip()


def _skip_start_activity() -> Parser[None]:
    for _ in ("id", "level", "type"):
        yield from read_u64()
    yield from read_bytes()
    yield from _skip_fields()
    yield from read_u64()


def _skip_result() -> Parser[None]:
    for _ in ("id", "type"):
        yield from read_u64()
    yield from _skip_fields()


def _skip_fields() -> Parser[None]:
    for _ in range((yield from read_count(_MAX_FIELDS))):
        kind = yield from read_u64()
        if kind > 1:
            raise FormatError("a field is neither a number nor a string")
        yield from (read_bytes() if kind else read_u64())


# READ asks for data and WRITE delivers some: only operations that are not spoken here do that.
_SKIP: Final[dict[int, Callable[[], Parser[object]]]] = {
    Frame.NEXT: read_bytes,
    Frame.START_ACTIVITY: _skip_start_activity,
    Frame.STOP_ACTIVITY: read_u64,
    Frame.RESULT: _skip_result,
}


def _read_error() -> Parser[str]:
    if (yield from read_bytes()) != b"Error":
        raise FormatError("the type of an error is not Error")
    yield from read_u64()  # level
    yield from read_bytes()  # a name, which is always the same
    message = clean((yield from read_bytes()).decode(errors="replace"))
    yield from _read_no_position()
    for _ in range((yield from read_count(_MAX_FIELDS))):
        yield from _read_no_position()
        yield from read_bytes()
    return message


def _read_no_position() -> Parser[None]:
    if (yield from read_u64()) != 0:
        raise FormatError("an error has a position, which has no format")


def clean(text: str) -> str:
    """`text` fit for a log: without colours and control characters."""
    return _CONTROL.sub("", _ANSI.sub("", text)).strip()
