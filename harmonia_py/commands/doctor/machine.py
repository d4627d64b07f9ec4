"""The machine: its clock and its limits."""

import ctypes
import resource
import time
from pathlib import Path
from typing import Final

import harmonia_py
from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.config.settings import Config

# adjtimex(2): with a zero in front it asks and changes nothing; this answer says that the clock is not synchronised.
_TIMEX_BYTES: Final = 512
_TIME_ERROR: Final = 5
# A connection that downloads has a socket and one or two files.
_FDS_PER_CONNECTION: Final = 3
# Listening sockets, the daemon's connections, the database, libraries.
_OTHER_FDS: Final = 256


def look_at(config: Config) -> list[Finding]:
    """Clock and limits."""
    newest = Path(harmonia_py.__file__).stat().st_mtime
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        *judge_clock(synchronised=is_synchronised(), now=time.time(), newest=newest),
        judge_descriptors(soft, hard, config.max_connections),
    ]


def judge_clock(*, synchronised: bool | None, now: float, newest: float) -> list[Finding]:
    """Whether the clock can be right; `newest` is a moment that has certainly passed."""
    today = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))
    if now < newest - 86400:
        what = f"it says {today} UTC, which is before this program was installed"
        return [Finding.failure("clock", what, "set it: certificates and the age of kept files depend on it")]
    if synchronised is False:
        remedy = "`timedatectl set-ntp true`, or run chrony; a virtual machine may have its host's instead"
        return [Finding.warning("clock", f"it says {today} UTC, and is not synchronised", remedy)]
    return [Finding.ok("clock", f"{today} UTC{', synchronised' if synchronised else ''}")]


def judge_descriptors(soft: int, hard: int, max_connections: int) -> Finding:
    """Whether a worker may open as many files as `max_connections` downloads need."""
    needed = max_connections * _FDS_PER_CONNECTION + _OTHER_FDS
    unlimited = soft == resource.RLIM_INFINITY
    if unlimited or soft >= needed:
        shown = "as many as it likes" if unlimited else str(soft)
        return Finding.ok("open files", f"{shown} per worker, enough for {max_connections} connections")
    carries = max(0, (soft - _OTHER_FDS) // _FDS_PER_CONNECTION)
    what = f"{soft} per worker, in this shell, carry about {carries} downloads; max_connections is {max_connections}"
    more = f"`ulimit -n {needed}`, " if hard == resource.RLIM_INFINITY or hard >= needed else ""
    remedy = f"{more}LimitNOFILE={needed} in the unit, or a smaller max_connections"
    return Finding.warning("open files", what, remedy)


def is_synchronised() -> bool | None:
    """Whether a program such as an NTP daemon sets the kernel's clock; None where the kernel does not say."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (AttributeError, OSError):
        return None
    return None if state < 0 else bool(state != _TIME_ERROR)
