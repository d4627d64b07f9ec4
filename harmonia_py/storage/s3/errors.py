"""Errors of a bucket as this project's errors, at the edge where they enter."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from obstore.exceptions import BaseError

from harmonia_py.errors import StorageError, StorageFull

_STATUS: Final = re.compile(r"status code: (\d{3}[^:<]*)")
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
# The error codes of servers whose limit is reached.
_FULL: Final = ("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity")
_NO_KEY: Final = "<Code>NoSuchKey</Code>"
_NO_BUCKET: Final = "<Code>NoSuchBucket</Code>"
_NO_RANGE: Final = "416 "
# What servers answer to a header that they do not know.
_MISUNDERSTOOD: Final = ("400 ", "405 ", "501 ")


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise `StorageError`, or `StorageFull`, in the place of the library's exceptions, also of absence."""
    try:
        yield
    except (BaseError, OSError, TimeoutError) as error:
        kind = StorageFull if any(code in str(error) for code in _FULL) else StorageError
        raise kind(f"cannot {action}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """The error in one line, without the URL, the key and the library's own names."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is not None:
        return f"the bucket answers {status[1].strip()}" + (f" ({code[1]})" if code is not None else "")
    if isinstance(error, TimeoutError) or "timed out" in text or "TimedOut" in text:
        return "the bucket does not answer in time"
    return "the bucket cannot be reached" if isinstance(error, BaseError) else f"{type(error).__name__}"


class UnlessAbsent:
    """Ends a block where the bucket says that there is no such key; another 404, as of a proxy, says nothing of it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        return isinstance(error, FileNotFoundError) and _NO_KEY in str(error)


def has_no_bucket(error: BaseException | None) -> bool:
    """Whether the server says that there is no such bucket."""
    return _NO_BUCKET in str(error)


def is_beyond(error: BaseError) -> bool:
    """Whether the object was too short for the requested range."""
    return _has_status(error, _NO_RANGE)


def is_misunderstood(error: BaseError) -> bool:
    """Whether the server may not know a header of the request."""
    return _has_status(error, *_MISUNDERSTOOD)


def _has_status(error: BaseError, *statuses: str) -> bool:
    found = _STATUS.search(str(error))
    return found is not None and found[1].startswith(statuses)
