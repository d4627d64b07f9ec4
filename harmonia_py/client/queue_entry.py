"""An entry of the queue of a hook, written with no more of Python than a build should wait for.

`PushQueue` reads what this writes, and says how a queue lies on the disk.
"""

import os
import time
from collections.abc import Collection, Mapping

NEW = "new"
"""The directory of entries in that of the queue."""


def write_entry(directory: str, paths: Collection[str]) -> None:
    """Add full store paths as one entry; when this returns, it outlives a power cut.

    Raises:
        OSError: it cannot be written; then nothing is added.
    """
    new = os.path.join(directory, NEW)  # noqa: PTH118  # pathlib alone takes as long to import as all of this
    os.makedirs(new, mode=0o700, exist_ok=True)  # noqa: PTH103
    # What is no text is set aside by what reads it.
    data = os.fsencode(" ".join(paths) + "\n")
    name = f"{time.time_ns():020}-{os.urandom(4).hex()}"
    hidden = f"{new}/.{name}"
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(fd, "wb") as stream:  # noqa: PTH123
            stream.write(data)
            stream.flush()
            os.fsync(fd)
        os.rename(hidden, f"{new}/{name}")  # noqa: PTH104
    except BaseException:
        os.unlink(hidden)  # noqa: PTH108
        raise
    _sync(new)


def queue_directory(name: str, environment: Mapping[str, str]) -> str:
    """The default directory of a queue: in the state directory of the service, or of the user."""
    service, own = environment.get("STATE_DIRECTORY"), environment.get("XDG_STATE_HOME")
    if service:
        return os.path.join(service.partition(":")[0], name)  # noqa: PTH118
    return os.path.join(own or os.path.expanduser("~/.local/state"), "harmonia-py", name)  # noqa: PTH111, PTH118


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
