"""Range requests and validators: RFC 9110, sections 13 and 14."""

import re
from typing import Final

from msgspec import Struct

_RANGE: Final = re.compile(r"bytes[ \t]*=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII | re.IGNORECASE)
# A number of more digits is beyond the end of everything; int() of thousands of digits would be work for nothing.
_MAX_DIGITS: Final = 19
_BEYOND: Final = 10**_MAX_DIGITS


class ByteRange(Struct, frozen=True):
    """The bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int


class Unsatisfiable(Exception):  # RFC 9110's word; it never leaves this package
    """The range lies beyond the representation: 416."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The one range that is asked for, or None where RFC 9110 lets us send everything.

    That is: no header, another unit, several ranges, or a header that does not parse.

    Raises:
        Unsatisfiable: the range begins at or after `size`, or asks for the last 0 bytes.
    """
    match = _RANGE.fullmatch(header) if header is not None else None
    if match is None:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        length = _number(last)
        if length == 0 or size == 0:
            raise Unsatisfiable
        return ByteRange(max(0, size - length), size)
    start = _number(first)
    if last and _number(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return ByteRange(start, min(_number(last) + 1, size) if last else size)


def has_beginning(header: str | None) -> bool:
    """Whether `Range: header` is that of a client with the first bytes already."""
    match = _RANGE.fullmatch(header) if header is not None else None
    return match is not None and _number(match[1]) > 0


def _number(digits: str) -> int:
    significant = digits.lstrip("0")
    return int(significant or 0) if len(significant) <= _MAX_DIGITS else _BEYOND


def matches(header: str, etag: str) -> bool:
    """Whether `If-None-Match: header` names `etag` (given with its quotes), by weak comparison."""
    if header.strip() == "*":
        return True
    return any(candidate.strip().removeprefix("W/") == etag for candidate in header.split(","))


def if_match_holds(header: str, etag: str) -> bool:
    """Whether `If-Match: header` names `etag` (given with its quotes), by strong comparison."""
    return header.strip() == "*" or any(candidate.strip() == etag for candidate in header.split(","))


def if_range_holds(header: str | None, etag: str) -> bool:
    """Whether a range may be sent: no `If-Range`, or one that names `etag` strongly. We give no dates to compare."""
    return header is None or header.strip() == etag
