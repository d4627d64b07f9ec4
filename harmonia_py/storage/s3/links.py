"""URLs at which clients get a file from the bucket themselves, or send one there."""

from datetime import timedelta
from typing import Final, Literal
from urllib.parse import quote

import obstore

from harmonia_py.errors import StorageError
from harmonia_py.storage.s3.errors import translated
from harmonia_py.storage.s3.settings import S3Settings
from harmonia_py.storage.s3.stores import signing_store

# A download has to begin within this time. A client that goes on with one asks here again, and is let in again.
_READ: Final = timedelta(minutes=5)
# An upload, too; most begin at once.
_WRITE: Final = timedelta(minutes=15)


class Links:
    """Signs URLs, and asks the bucket nothing.

    Args:
        settings: of the bucket.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._public_url = settings.public_url
        with translated("sign URLs of the bucket"):
            self._store = signing_store(settings)

    async def to_read(self, key: str, public: bool) -> str | None:  # noqa: FBT001  # as `Redirect` has it
        """The URL at which clients get a file: the public one, where everybody may read it, or one signed for minutes.

        None when clients of such a cache are not sent to the bucket.

        Raises:
            StorageError: nothing can be signed at the moment.
        """
        if public and self._public_url is not None:
            return f"{self._public_url}/{quote(key)}"
        return None if self._store is None else await self._sign("GET", key, _READ)

    async def to_write(self, key: str) -> str:
        """A URL to which a client sends a file, and with which it can do nothing else.

        Raises:
            StorageError: nothing can be signed at the moment.
        """
        return await self._sign("PUT", key, _WRITE)

    async def _sign(self, method: Literal["GET", "PUT"], key: str, time: timedelta) -> str:
        if self._store is None:
            raise StorageError("clients are not sent to the bucket: there is no public_endpoint")
        with translated("sign a URL of the bucket"):
            return await obstore.sign_async(self._store, method, key, time)
