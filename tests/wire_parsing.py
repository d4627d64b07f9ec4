"""Parsers of the worker protocol run on bytes in memory, and the simplest question of the protocol."""

from typing import Final

from harmonia_py.errors import FormatError
from harmonia_py.nix.handshake import Exchange, read_log
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.nix.wire import Parser, Value, read_bool, write_string, write_u64

_IS_VALID_PATH: Final = 1


def run(parser: Parser[Value], data: bytes) -> Value:
    """The value that `parser` reads from exactly `data`.

    Raises:
        FormatError: what the parser raises, or `data` is too short or too long.
    """
    position = 0
    try:
        size = next(parser)
        while position + size <= len(data):
            chunk = data[position : position + size]
            position += size
            size = parser.send(chunk)
    except StopIteration as stop:
        if position != len(data):
            raise FormatError("bytes follow where nothing is expected") from None
        value: Value = stop.value
        return value
    parser.close()
    raise FormatError("the data ends too early")


def is_valid_path(store_path: StorePath, store_dir: StoreDir) -> Exchange[bool]:
    """Whether `store_path` is valid. A daemon's process may remember."""
    return Exchange(write_u64(_IS_VALID_PATH) + write_string(store_dir.join(store_path)), _read_answer())


def _read_answer() -> Parser[bool]:
    yield from read_log()
    return (yield from read_bool())
