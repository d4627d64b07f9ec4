"""The metadata of a blob on disk: one JSON document in an extended attribute, or in a hidden file beside the blob.

The document repeats the size of the blob. A file whose size differs, or that has no document, is not a whole blob:
that is what a lost write or a half-done deletion looks like.
"""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import xattr

_ATTRIBUTE: Final = "user.harmonia"
# ext4 keeps all attributes of a file in one block of 4 KiB, and says ENOSPC beyond: larger documents go to a sidecar.
_ATTRIBUTE_LIMIT: Final = 2048
# No document is longer: narinfos, the largest values that are kept here, are limited to 4 MiB.
_SIDECAR_LIMIT: Final = 8 * 1024 * 1024
_NO_ATTRIBUTES: Final = frozenset({errno.ENOTSUP, errno.EPERM, errno.ENOSPC, errno.E2BIG, errno.ENOSYS})
_ABSENT: Final = frozenset({errno.ENODATA, errno.ENOTSUP, errno.ENOENT, errno.ENOSYS})


class _Document(msgspec.Struct):
    size: int
    metadata: dict[str, str]


_decoder: Final = msgspec.json.Decoder(_Document)


def sidecar_of(path: Path) -> Path:
    """The hidden file beside a blob; no key begins with a dot, so it is never taken for a blob."""
    return path.with_name(f".{path.name}.json")


def write_metadata(fd: int, size: int, metadata: Mapping[str, str]) -> bytes | None:
    """Attach the metadata to an open blob; the bytes for a sidecar when the file system does not take them."""
    # Hash parts and store paths are text too, of types that msgspec does not know.
    document = msgspec.json.encode(_Document(size, {str(name): str(value) for name, value in metadata.items()}))
    if len(document) > _ATTRIBUTE_LIMIT:
        return document
    try:
        xattr.set(fd, _ATTRIBUTE, document)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return document
        raise
    return None


def read_metadata(fd: int, path: Path, size: int) -> dict[str, str] | None:
    """The metadata of the open blob at `path`; None when it has none that fits its size."""
    try:
        data = xattr.get(fd, _ATTRIBUTE)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        data = _read_sidecar(sidecar_of(path))
    return _parse(data, size)


def look_at_metadata(item: str | int, size: int) -> dict[str, str] | None:
    """The metadata in the attribute of the blob at a path, or of an open one; None: `read_metadata` can tell.

    Raises:
        OSError: it has no attribute, or none that can be read.
    """
    return _parse(xattr.get(item, _ATTRIBUTE, nofollow=isinstance(item, str)), size)


def _parse(data: bytes, size: int) -> dict[str, str] | None:
    try:
        document = _decoder.decode(data)
    except msgspec.MsgspecError:
        return None
    return document.metadata if document.size == size else None


def _read_sidecar(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    with open(fd, "rb") as file:  # noqa: PTH123  # a descriptor, not a path
        return file.read(_SIDECAR_LIMIT)
