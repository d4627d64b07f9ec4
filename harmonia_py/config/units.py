"""Sizes and durations as people write them, and the bounds of numbers that are in several tables."""

import re
from typing import Annotated, Final

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
NonNegative = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]

_SIZE: Final = re.compile(r"([0-9]{1,18})[ ]?(?:([KMGTP])(?:i?B)?|B)?", re.ASCII)
_DURATION: Final = re.compile(r"([0-9]{1,9})[ ]?(?:(second|minute|hour|day|week)s?)?", re.ASCII)
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}


def parse_size(key: str, value: int | str) -> int:
    """Bytes: a number, or one with K, M, G, T or P, which are powers of 1024 whether they have an `i` or not.

    Raises:
        ValueError: anything else; the message names `key`.
    """
    match = _SIZE.fullmatch(str(value))
    if match is None:
        raise ValueError(f'{key}: not a size: {value!r}; write bytes as a number, or "200 GiB"')
    exponent = " KMGTP".index(match[2]) if match[2] else 0
    return int(match[1]) << 10 * exponent


def parse_duration(key: str, value: int | str) -> int:
    """Seconds: a number, or one with seconds, minutes, hours, days or weeks.

    Raises:
        ValueError: anything else; the message names `key`.
    """
    match = _DURATION.fullmatch(str(value))
    if match is None:
        raise ValueError(f'{key}: not a duration: {value!r}; write seconds as a number, or "30 days"')
    return int(match[1]) * _SECONDS[match[2] or "second"]
