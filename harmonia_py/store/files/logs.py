"""Build logs as Nix keeps them: `drvs/<first two characters>/<rest>`, usually compressed with bzip2.

Source: `src/libstore/local-fs-store.cc` of Nix. Everything here is synchronous: it runs in a thread.
"""

import bz2
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from harmonia_py.cache.source import Download, FileSlice, Piece
from harmonia_py.errors import StorageError, describe_os_error, reason_of
from harmonia_py.nix.store_path import HashPart, StorePath

_SUFFIXES: Final = ("", ".bz2")
_CHUNK: Final = 256 * 1024
# bzip2 makes much of little: a log beyond this is cut rather than decompressed for ever.
_MAX_LOG_BYTES: Final = 4 * 1024**3


def find(directory: Path, derivation: StorePath | HashPart) -> Download | None:
    """The log of `derivation`, named whole or by its hash part; None when there is none.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        file = _find(directory / "drvs", derivation)
        if file is None:
            return None
        status = file.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"a build log cannot be read: {describe_os_error(error)}") from error
    # A log does not change once it is complete, but another build of the derivation replaces it.
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    if file.suffix == ".bz2":
        return Download(size=None, etag=etag, pieces=lambda _start, _stop: _decompress(file))
    return Download(size=status.st_size, etag=etag, pieces=partial(_read, file, status.st_size))


def _find(drvs: Path, derivation: StorePath | HashPart) -> Path | None:
    directory = drvs / derivation[:2]
    if isinstance(derivation, StorePath):
        names = [directory / derivation[2:], drvs / derivation]
        return next(
            (file for name in names for suffix in _SUFFIXES if (file := Path(f"{name}{suffix}")).is_file()), None
        )
    prefix = f"{derivation[2:]}-"
    with os.scandir(directory) as entries:
        return next((Path(entry) for entry in entries if entry.name.startswith(prefix) and entry.is_file()), None)


def _read(file: Path, size: int, start: int, stop: int | None) -> Iterator[Piece]:
    try:
        with file.open("rb") as stream:
            yield FileSlice(stream.fileno(), start, (size if stop is None else stop) - start)
    except OSError as error:
        raise StorageError(f"a build log cannot be read: {describe_os_error(error)}") from error


def _decompress(file: Path) -> Iterator[Piece]:
    size = 0
    try:
        with bz2.open(file) as stream:
            while data := stream.read(_CHUNK):
                size += len(data)
                if size > _MAX_LOG_BYTES:
                    raise StorageError("a build log is too long")
                yield data
    except (OSError, EOFError) as error:
        raise StorageError(f"a build log cannot be read: {reason_of(error)}") from error
