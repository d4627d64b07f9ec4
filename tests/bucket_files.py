"""The objects of a bucket as files: what a test does to a directory of kept files, it does to a bucket.

    directory = BucketPath("kept-1")                    # of the double that backing.py has
    (directory / "nar" / "x.nar").unlink()
    {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}

What only a disk has (times, descriptors, a bit that flips without a sign) skips the test that asks for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import normpath
from typing import ClassVar, Final, NoReturn

import pytest
from s3_double import Object, S3Double

_OF_A_DISK: Final = "does what only a disk can"


@dataclass(frozen=True, slots=True)
class _Status:
    st_size: int

    def __getattr__(self, _name: str) -> NoReturn:
        pytest.skip(_OF_A_DISK)


class BucketPath(PurePosixPath):
    """Objects of `double` by the names and the methods of `pathlib.Path`."""

    double: ClassVar[S3Double]

    @property
    def _objects(self) -> dict[str, Object]:
        return self.double.objects

    def is_file(self) -> bool:
        return normpath(str(self)) in self._objects

    exists = is_file

    def read_bytes(self) -> bytes:
        return self._object().data

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        before = self._objects.get(str(self))
        self._objects[str(self)] = Object(data, before.headers if before is not None else {})

    def unlink(self) -> None:
        self._object()
        del self._objects[str(self)]

    def rename(self, target: "BucketPath") -> None:
        """Move an object, or all that are below this one."""
        moved = [self] if self.is_file() else list(self.rglob("*"))
        for path in moved:
            self._objects[str(target / path.relative_to(self))] = self._objects.pop(str(path))

    def stat(self) -> "_Status":
        return _Status(len(self._object().data))

    def iterdir(self) -> Iterator["BucketPath"]:
        return iter({self / path.relative_to(self).parts[0] for path in self.rglob("*")})

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        below = [BucketPath(key) for key in sorted(self._objects) if key.startswith(f"{self}/")]
        return (path for path in below if path.match(pattern))

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        depth = len((self / pattern).parts)
        return (path for path in self.rglob(pattern) if len(path.parts) == depth)

    def open(self, *_: object) -> NoReturn:
        pytest.skip(_OF_A_DISK)

    def touch(self) -> NoReturn:
        pytest.skip(_OF_A_DISK)

    def __fspath__(self) -> NoReturn:
        pytest.skip(_OF_A_DISK)

    def _object(self) -> Object:
        try:
            return self._objects[str(self)]
        except KeyError:
            raise FileNotFoundError(str(self)) from None
