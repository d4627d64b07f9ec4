"""The primitives of the worker protocol: integers, strings and collections of them.

Source: `src/libutil/serialise.cc` of Nix. An integer has eight bytes, little endian; a string is its length, its bytes
and zeros up to a multiple of eight; a collection is the number of its items and the items.

Writers return bytes. Readers are generators: they yield how many bytes they need next and are sent exactly these, so
that the same parser runs on bytes in memory and on a socket. Lengths are believed only up to a limit, and
nothing is allocated for a length before its bytes are there.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Final, TypeVar

from harmonia_py.errors import FormatError

Value = TypeVar("Value")
Parser = Generator[int, bytes, Value]

# Store paths, hashes and signatures have some hundred bytes; what is long is an error message with its trace.
MAX_STRING_SIZE: Final = 1024 * 1024

# References of one path, signatures, traces of an error; the closure of a whole system has some thousand paths.
MAX_COLLECTION_SIZE: Final = 1_000_000

# As Nix frames what it sends.
MAX_FRAME_SIZE: Final = 32 * 1024

END_OF_FRAMES: Final = bytes(8)

_PADDING: Final = (b"", b"\0" * 7, b"\0" * 6, b"\0" * 5, b"\0" * 4, b"\0" * 3, b"\0" * 2, b"\0")


def write_u64(number: int) -> bytes:
    """Eight bytes, little endian; also for booleans and enumerations."""
    return number.to_bytes(8, "little")


def write_bytes(data: bytes) -> bytes:
    """The length, `data`, and its padding."""
    return b"".join((len(data).to_bytes(8, "little"), data, _PADDING[len(data) % 8]))


def write_string(text: str) -> bytes:
    """`text` in UTF-8, as `write_bytes` does it."""
    return write_bytes(text.encode())


def write_strings(texts: Iterable[str]) -> bytes:
    """A list of strings, or a set when the caller has sorted it."""
    items = [write_string(text) for text in texts]
    return write_u64(len(items)) + b"".join(items)


def write_frames(data: bytes) -> bytes:
    """`data` as frames, which are not padded. `END_OF_FRAMES` ends a sequence of them and is not written here."""
    frames = [data[start : start + MAX_FRAME_SIZE] for start in range(0, len(data), MAX_FRAME_SIZE)]
    return b"".join([write_u64(len(frame)) + frame for frame in frames])


def read_u64() -> Parser[int]:
    """An unsigned integer below 2^64."""
    return int.from_bytes((yield 8), "little")


def read_bool() -> Parser[bool]:
    """False is zero; anything else is true, as in Nix."""
    return (yield 8) != END_OF_FRAMES


def read_bytes(limit: int = MAX_STRING_SIZE) -> Parser[bytes]:
    """A string as bytes.

    Raises:
        FormatError: longer than `limit`, or padding that is not zero.
    """
    size = int.from_bytes((yield 8), "little")
    if size > limit:
        raise FormatError(f"a string of {size} bytes; at most {limit} are taken")
    if size == 0:
        return b""
    padding = _PADDING[size % 8]
    data = yield size + len(padding)
    if not data.endswith(padding):
        raise FormatError("the padding of a string is not zero")
    return data[:size]


def read_string(limit: int = MAX_STRING_SIZE) -> Parser[str]:
    """A string as text.

    Raises:
        FormatError: as `read_bytes`, and for bytes that are not UTF-8.
    """
    data = yield from read_bytes(limit)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FormatError("a string is not UTF-8") from None


def read_count(limit: int = MAX_COLLECTION_SIZE) -> Parser[int]:
    """The number of items of a collection.

    Raises:
        FormatError: more than `limit`.
    """
    count = int.from_bytes((yield 8), "little")
    if count > limit:
        raise FormatError(f"a collection of {count} items; at most {limit} are taken")
    return count


def read_list(read_item: Callable[[], Parser[Value]], limit: int = MAX_COLLECTION_SIZE) -> Parser[list[Value]]:
    """A list or a set, in the order in which its items come.

    Raises:
        FormatError: more than `limit` items, and what `read_item` raises.
    """
    items = []
    for _ in range((yield from read_count(limit))):
        items.append((yield from read_item()))  # noqa: PERF401 - no comprehension can yield
    return items


def read_strings(limit: int = MAX_COLLECTION_SIZE) -> Parser[list[str]]:
    """A list or a set of strings.

    Raises:
        FormatError: as `read_list` and `read_string`.
    """
    return read_list(read_string, limit)
