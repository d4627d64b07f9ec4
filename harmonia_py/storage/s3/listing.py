"""The blobs below a prefix of a bucket, without those of the catalogs of other prefixes inside of it."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from obstore.store import S3Store

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.storage.s3.errors import translated
from harmonia_py.storage.s3.stores import in_time

if TYPE_CHECKING:
    from obstore import ObjectMeta

OWNER: Final = ".catalog"
"""The name below a prefix of the object that names its catalog."""
# Keys of blobs begin with no dot; below such names there may be far more objects than blobs.
_BEFORE_BLOBS: Final = ".zz"


async def pages_of_blobs(store: S3Store) -> "AsyncIterator[list[tuple[BlobKey, ObjectMeta]]]":
    """Every blob below the prefix of `store`, in the order of the keys.

    A folder with an `OWNER` is the prefix of another catalog: what is in it has the form of blobs, and is none of
    these.

    Raises:
        StorageError: the bucket cannot tell, or told of an owner after it told of what belongs to that one.
    """
    pages = store.list(offset=_BEFORE_BLOBS)
    foreign: tuple[str, ...] = ()
    folders: set[str] = set()
    while True:
        with translated("list the bucket"):
            page = await in_time(anext(pages, None))
        if page is None:
            return
        blobs = []
        for found in page:
            name = found["path"]
            folder, _, last = name.rpartition("/")
            if last == OWNER and folder:  # a dot is before all characters that the names of blobs begin with
                foreign = (*foreign, f"{folder}/")
                if any(f"{other}/".startswith(foreign) for other in folders):
                    raise StorageError(f"the bucket lists {name}, which has another catalog, not in the order of names")
            elif not name.startswith(foreign):
                with suppress(FormatError):  # what is beside blobs, and what other programs have put there
                    blobs.append((BlobKey.parse(name), found))
                    folders.add(folder)
        yield blobs
