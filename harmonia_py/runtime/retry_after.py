"""The field `Retry-After`: the time for which a server wants not to be asked."""

import email.utils
import time
from typing import Final

_MAX_DIGITS: Final = 6


def seconds_until(text: str) -> float | None:
    """The value of `Retry-After` as seconds from now (RFC 9110, section 10.2.3); None when it has none."""
    if text.isdecimal():
        return float(text[:_MAX_DIGITS])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
