"""Files of a user that hold secrets: mode 0600 from their first byte on, replaced whole or not at all."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from harmonia_py.errors import ConfigError, describe_os_error
from harmonia_py.runtime.durable import make_directories, sync_directory

PRIVATE: Final = 0o600
_MAX_BYTES: Final = 4 * 1024 * 1024


def read_private(file: Path) -> str | None:
    """The text of a file; None when there is none.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_BYTES).decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(describe_os_error(error)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not text") from None


def write_private(file: Path, text: str, mode: int = PRIVATE) -> None:
    """Give a file this text; it outlives a power cut. A file that a link leads to is the one that is replaced.

    Args:
        file: made with its directories when it is not there.
        text: all of it.
        mode: of a file that is made; one that is there keeps its mode, without what others may do when this is private.

    Raises:
        ConfigError: it cannot be written; what was there is there still.
    """
    try:
        file = file.resolve()
        make_directories(file.parent)
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(file.stat().st_mode) & (PRIVATE if mode == PRIVATE else 0o777)
        with written_beside(file, text.encode(), mode) as new:
            new.replace(file)
    except OSError as error:
        # Not the name that the error has: it may be that of the new file, which is gone.
        raise ConfigError(f"{file}: {error.strerror or error}") from None


@contextmanager
def written_beside(file: Path, data: bytes, mode: int = PRIVATE) -> Iterator[Path]:
    """A new file with these bytes, beside `file`, of which the block makes `file`; that outlives a power cut then.

    In the end the new name is gone, whatever the block has done.
    """
    # Not the process id: in a container that is the same at every start, and a crash may have left a file behind.
    new = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            os.fchmod(fd, mode)
            stream.flush()
            os.fsync(fd)
        yield new
    finally:
        with suppress(OSError):
            new.unlink()
    sync_directory(file.parent)
