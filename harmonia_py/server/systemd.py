"""Notes of a service to systemd: sd_notify(3)."""

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from harmonia_py.errors import describe_os_error

_log = logging.getLogger(__name__)

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"


def notify(*lines: str) -> None:
    """Send `lines` to `$NOTIFY_SOCKET`; nothing happens where there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            # A name that begins with @ is in the abstract namespace.
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall("\n".join(lines).encode())
    except OSError as error:
        _log.warning("cannot notify the service manager: %s", describe_os_error(error))


def watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Within which time systemd wants to hear `WATCHDOG`; None when it does not, or not from this process."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or int(text) == 0 or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 1_000_000


def reloading() -> tuple[str, str]:
    """The note of `Type=notify-reload` that a reload begins; READY ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"
