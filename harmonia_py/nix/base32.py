"""Nix's base-32: the digits 0-9 and a-z without e, o, t, u, written from the last bit to the first.

Source: `src/libutil/base-nix-32.cc` of Nix. It is not RFC 4648: the string is the number whose least significant byte
is the first byte of the input, in base 32, most significant digit first.
"""

from functools import lru_cache
from typing import Final

from harmonia_py.errors import FormatError

ALPHABET: Final = "0123456789abcdfghijklmnpqrsvwxyz"

# int() reads base 32 with the digits 0-9a-v: translating the alphabet leaves the arithmetic to C.
_TO_PYTHON: Final = str.maketrans(ALPHABET, "0123456789abcdefghijklmnopqrstuv")
_CHARACTERS: Final = frozenset(ALPHABET)
# Two digits at a time take half the time: every narinfo that is signed has three or four hashes in it.
_PAIRS: Final = [first + second for first in ALPHABET for second in ALPHABET]


def encoded_length(size: int) -> int:
    """Number of digits that `size` bytes take."""
    return (size * 8 + 4) // 5


@lru_cache(maxsize=8192)
def encode(data: bytes) -> str:
    """`data` in Nix's base-32; the empty string for no bytes."""
    number = int.from_bytes(data, "little")
    length = encoded_length(len(data))
    odd = length % 2
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(5 * (length + odd) - 10, -1, -10)])[odd:]


def decode(text: str) -> bytes:
    """The bytes that `encode` made `text` of.

    Raises:
        FormatError: a character outside the alphabet, or bits set beyond the last byte.
    """
    if not text:
        return b""
    if not _CHARACTERS.issuperset(text):
        raise FormatError("invalid character in a base-32 string")
    number = int(text.translate(_TO_PYTHON), 32)
    size = len(text) * 5 // 8
    if number >> (8 * size) or encoded_length(size) != len(text):
        raise FormatError("base-32 string does not end on a byte")
    return number.to_bytes(size, "little")
