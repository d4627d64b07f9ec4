"""The pause before a request is made again: with full jitter, so that many clients do not come back together."""

import random
from collections.abc import Iterator
from typing import Final

_FIRST_SECONDS: Final = 0.25
_LONGEST_SECONDS: Final = 15.0
# A server that asks for more is not coming back for this push.
MAX_RETRY_AFTER_SECONDS: Final = 120.0


def delays() -> Iterator[float]:
    """Seconds to wait before the second, third … attempt: anything up to a bound that doubles up to 15 s.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    bound = _FIRST_SECONDS
    while True:
        yield random.uniform(0, bound)  # noqa: S311  # spreads clients, hides nothing
        bound = min(2 * bound, _LONGEST_SECONDS)


def wait_before_next(delay: float, retry_after: float | None) -> float:
    """The seconds to wait before the next attempt: `delay`, or, if the server gave it, the time of `Retry-After`.

    A little of the jitter is kept: all clients were told the same.
    """
    return delay if retry_after is None else min(retry_after, MAX_RETRY_AFTER_SECONDS) + min(delay, 1.0)
