"""The prefix below which a bucket is one directory's alone: its name is drawn once, and noted in a file."""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from harmonia_py.errors import StorageError
from harmonia_py.runtime.durable import sync_directory
from harmonia_py.storage.errors import translated
from harmonia_py.storage.private import open_new
from harmonia_py.storage.s3.settings import S3Settings

# In the directory, and in the bucket; keys of blobs do not begin with a dot.
_FILE: Final = "part"
_PREFIXES: Final = ".parts"
_NAME: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)


def own_prefix(directory: Path, s3: S3Settings) -> S3Settings:
    """The settings with a prefix of this directory alone, the same from the first call on. It may block.

    Raises:
        StorageError: the directory cannot be read or written.
    """
    with translated("name a part of the bucket"):
        name = _name_in(directory / _FILE)
    return replace(s3, prefix=f"{s3.prefix}/{_PREFIXES}/{name}".lstrip("/"))


def _name_in(file: Path) -> str:
    """The content of the file; of several processes that make it, the first decides."""
    if not file.exists():
        _draw_name(file)
    # Also where another process has made it a moment ago: nothing is put under a name that could be drawn anew. The
    # directory itself may be as young.
    for directory in (file.parent, file.parent.parent):
        sync_directory(directory)
    text = file.read_text()
    if _NAME.fullmatch(text) is None:
        raise StorageError(f"{file} does not name a part of the bucket")
    return text


def _draw_name(file: Path) -> None:
    new = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    fd = open_new(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    try:
        with os.fdopen(fd, "w") as out:
            out.write(secrets.token_hex(8))
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(new, file)
    finally:
        new.unlink()
