"""Columns of numbers as bytes: little endian, whatever this machine is."""

import sys
from array import array

# The format has numbers of these widths, and an array has those of the C compiler.
assert [array(code).itemsize for code in "HIQ"] == [2, 4, 8]


def read_column(code: str, data: bytes) -> "array[int]":
    """The numbers in `data`; `code` is the one of `array` for their width."""
    column = array(code)
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def format_column(column: "array[int]") -> bytes:
    """What `read_column` reads."""
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()
