"""The checks of a server, which `/ready` runs and names: of everything that must work for it to be of use."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct

from harmonia_py.errors import HarmoniaError

# A load balancer asks; it gives up after a few seconds and learns less from that than from an answer.
CHECK_SECONDS: Final = 3.0


class Check(Struct, frozen=True):
    """Something that must work.

    Attributes:
        name: every client may read it, so it names no place on the machine: `nix-daemon`.
        run: raises a `HarmoniaError` when it does not.
    """

    name: str
    run: Callable[[], Awaitable[object]]


class Failure(Struct, frozen=True):
    """A check that failed, and why."""

    name: str
    reason: str


async def failures(checks: Sequence[Check]) -> list[Failure]:
    """The checks that fail now, or do not end in time, in their order."""
    found = await asyncio.gather(*map(_failure, checks))
    return [failure for failure in found if failure is not None]


async def _failure(check: Check) -> Failure | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check.run()
    except HarmoniaError as error:
        return Failure(check.name, str(error))
    except TimeoutError:
        return Failure(check.name, "no answer in time")
    return None
