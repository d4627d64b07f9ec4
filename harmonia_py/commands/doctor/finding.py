"""Findings, and the run of checks: each with a time limit, and none able to end the others."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from enum import Enum
from typing import Final, Self, TypeVar

from msgspec import Struct

from harmonia_py.errors import ConfigError, HarmoniaError, describe_os_error, reason_of
from harmonia_py.nix.handshake import clean

Value = TypeVar("Value")

_SHOWN_CHARACTERS: Final = 120


class Verdict(Enum):
    """The verdict of a finding. A failure: clients get errors or nothing. A warning: they get less than they could.

    Only failures make the exit status 1.
    """

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Finding(Struct, frozen=True):
    """One line of the report.

    Attributes:
        check: the subject, such as `nix-daemon`.
        verdict: how bad it is.
        what: the fact, in one line.
        remedy: in plain words; None only where all is well.
    """

    check: str
    verdict: Verdict
    what: str
    remedy: str | None = None

    @classmethod
    def ok(cls, check: str, what: str) -> Self:
        """A finding that all is well."""
        return cls(check, Verdict.OK, what)

    @classmethod
    def warning(cls, check: str, what: str, remedy: str) -> Self:
        """A finding that something works, but not as well as it could, or not for long."""
        return cls(check, Verdict.WARNING, what, remedy)

    @classmethod
    def failure(cls, check: str, what: str, remedy: str) -> Self:
        """A finding that something does not work."""
        return cls(check, Verdict.FAILURE, what, remedy)


class NoAnswer(HarmoniaError):
    """A cache gives no answer that could be judged.

    Attributes:
        remedy: what to do about it.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class Check(Struct, frozen=True):
    """Something to look at, with a time limit.

    Attributes:
        name: of the findings that speak of the check itself.
        run: gathers facts and judges them.
        seconds: how long that may take.
        late: what to do when it takes longer.
    """

    name: str
    run: Callable[[], Awaitable[Sequence[Finding]]]
    seconds: float
    late: str


async def findings_of(check: Check) -> Sequence[Finding]:
    """The findings of a check; one that cannot tell, or takes too long, gives a finding that says so."""
    try:
        async with asyncio.timeout(check.seconds):
            return await check.run()
    except TimeoutError:
        return [Finding.failure(check.name, f"no answer within {check.seconds:g} seconds", check.late)]
    except NoAnswer as error:
        return [Finding.failure(check.name, str(error), error.remedy)]
    except ConfigError as error:
        remedy = "mend what the configuration names; `harmonia-py check-config` lists all that is wrong with it"
        return [Finding.failure(check.name, f"cannot be checked: {error}", remedy)]
    except (HarmoniaError, OSError) as error:
        what = describe_os_error(error) if isinstance(error, OSError) else reason_of(error)
        return [Finding.failure(check.name, f"cannot be checked: {what}", check.late)]


async def in_thread(call: Callable[[], Value]) -> Value:
    """The result of `call`, run in a thread of its own; the caller, and the program, may end while it still hangs."""
    # The threads of asyncio's own pool are waited for at exit: one dead NFS mount would keep the program for ever.
    future: Future[Value] = Future()
    future.set_running_or_notify_cancel()  # so that a caller that has gone does not cancel what the thread sets

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(future)


def one_line(text: str) -> str:
    """`text` on one line, without characters that a terminal takes for commands."""
    return " ".join(clean(text).split())


def shown(text: str) -> str:
    """Text from outside, fit to stand in a line: without control characters, and not too long."""
    line = one_line(text)
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"
