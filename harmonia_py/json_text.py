"""JSON from outside, as values of a kind that the caller names. RFC 8259, section 9, lets a parser bound the depth.

Parsers recurse into values in one another, and how deep is theirs: some thousand fail with `RecursionError` in Python
3.11 and are taken in 3.13. The bound is ours, so that one text is right or wrong in all of them.
"""

from itertools import accumulate
from typing import Any, Final, TypeVar, overload

import msgspec

from harmonia_py.errors import FormatError

T = TypeVar("T")

MAX_DEPTH: Final = 64
"""How many lists and objects may be in one another. Documents and tokens of the protocols here have fewer than ten."""

# What is between two looks at other threads: a piece of nothing but brackets takes half a millisecond.
_PIECE: Final = 16 * 1024
_OTHER: Final = bytes(set(range(256)) - set(b'[]{}"'))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes 1 and -1


@overload
def decode(data: bytes | bytearray | str, *, most: int = MAX_DEPTH) -> Any: ...
@overload
def decode(data: bytes | bytearray | str, kind: type[T], *, most: int = MAX_DEPTH) -> T: ...
def decode(data: bytes | bytearray | str, kind: Any = Any, *, most: int = MAX_DEPTH) -> Any:
    """The value that the JSON in `data` is.

    Raises:
        FormatError: it is no JSON in UTF-8, or of another kind, or has more than `most` values in one another.
    """
    if isinstance(data, str):
        data = data.encode(errors="surrogatepass")  # what is no text is no JSON either
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(str(error)) from None
    except RecursionError:
        raise _too_deep(most) from None
    check_depth(data, most)  # afterwards: what is no JSON is refused at its first wrong byte
    return value


def check_depth(data: bytes | bytearray, most: int = MAX_DEPTH) -> None:
    """Check that no more than `most` lists and objects are in one another, in what may be JSON or not.

    It goes piece by piece, as one call for all would keep every other thread waiting, the event loop's too.

    Raises:
        FormatError: more are.
    """
    if len(data) <= _PIECE and data.count(b"[") + data.count(b"{") <= most:
        return  # as of every token
    depth, in_string, cut = 0, 0, b""
    for start in range(0, len(data), _PIECE):
        piece = cut + data[start : start + _PIECE]
        cut = b"\\" * ((len(piece) - len(piece.rstrip(b"\\"))) % 2)  # it escapes what the next piece begins with
        piece = piece.removesuffix(cut).replace(rb"\\", b"").replace(rb"\"", b"")
        # Without escapes, every second part between quotes is a string. Two quotes side by side change nothing.
        parts = piece.translate(_STEPS, _OTHER).replace(b'""', b"").split(b'"')
        depths = list(accumulate(memoryview(b"".join(parts[in_string::2])).cast("b"), initial=depth))
        if max(depths) > most:
            raise _too_deep(most)
        depth, in_string = depths[-1], (in_string + len(parts) - 1) % 2


def _too_deep(most: int) -> FormatError:
    return FormatError(f"it has more than {most} values in one another")
