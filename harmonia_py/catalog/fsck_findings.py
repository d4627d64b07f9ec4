"""The findings of `fsck`, and the ports that it asks."""

from enum import Enum

from msgspec import Struct

from harmonia_py.catalog.caches import Caches
from harmonia_py.catalog.documents import DocumentChecks
from harmonia_py.catalog.file_checks import FileChecks
from harmonia_py.catalog.objects import ObjectIndex, Objects
from harmonia_py.catalog.repairs import Repairs


class Fault(Enum):
    """The kinds of findings; the value says what each means."""

    MISSING = "the catalog has this file, and its bytes are missing, were cut, or were changed by another program"
    WRONG = "the bytes of this file are not those that were kept"
    QUARANTINED = "this file was found to be missing or wrong before; the paths that need it are hidden"
    RIGHT_AGAIN = "this file was quarantined, and its bytes are there and right"
    DOCUMENT = "the catalog has this log or listing, and its bytes are missing or wrong"
    UNNAMED = "no row names this file"
    NO_STATIC = "other programs do not see all of this path: its narinfo or its listing beside the files is missing"
    TOTAL = "this sum of the catalog is wrong, and limits of size are held to it"
    STALE_STATIC = "other programs see this path, and the catalog does not have it"


class Finding(Struct, frozen=True):
    """One thing that is wrong.

    Attributes:
        fault: its kind.
        key: of the blob; of a wrong total, what it is the sum of.
        detail: more, in words; may be empty.
        done: what was done about it, or what will be; None for nothing.
    """

    fault: Fault
    key: str
    detail: str = ""
    done: str | None = None


class FsckPorts(Struct, frozen=True, kw_only=True):
    """The ports of the catalog that `fsck` holds against the storage."""

    caches: Caches
    objects: Objects
    index: ObjectIndex
    checks: FileChecks
    documents: DocumentChecks
    repairs: Repairs
