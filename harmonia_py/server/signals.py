"""Signals that are waited for, with a time limit.

When SIGCONT interrupts `signal.sigtimedwait` behind the end of its time, CPython (3.11 at least) returns a signal that
no process has sent: CPython reads memory that the system call has not written. A supervisor that had been stopped for
a while, by a debugger or by `kill -STOP`, took that for SIGTERM. `sigwaitinfo` waits on, and a timer ends it.
"""

import signal
from collections.abc import Collection
from typing import Final

_TIMER: Final = signal.SIGALRM
# 0 would end the timer.
_SOON: Final = 0.0001


def block(signals: Collection[signal.Signals]) -> None:
    """Have signals wait until `wait_for` takes them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*signals, _TIMER})


def unblock(signals: Collection[signal.Signals]) -> None:
    """Have signals do what they do otherwise."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*signals, _TIMER})


def wait_for(signals: Collection[signal.Signals], seconds: float) -> signal.struct_siginfo | None:
    """The next of the signals, which are blocked; None when none has come in time, or a little sooner."""
    signal.setitimer(signal.ITIMER_REAL, max(_SOON, seconds))
    received = signal.sigwaitinfo({*signals, _TIMER})
    signal.setitimer(signal.ITIMER_REAL, 0)
    return None if received.si_signo == _TIMER else received
