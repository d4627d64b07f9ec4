"""The object that names the catalog to which a prefix of a bucket belongs.

    <prefix>/.catalog    the identity of the catalog that used the prefix first

A catalog takes files that it does not name for garbage: two of them would delete each other's. So nothing is written or
deleted below a prefix before this object was compared. Keys of blobs do not begin with a dot: it is no blob.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Final

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from harmonia_py.errors import StorageError
from harmonia_py.runtime.together import Together
from harmonia_py.storage.s3.errors import has_no_bucket, is_absent, is_not_implemented, translated
from harmonia_py.storage.s3.listing import OWNER
from harmonia_py.storage.s3.settings import S3Settings

_log = logging.getLogger(__name__)

Identity = Callable[[], Awaitable[str]]
"""Tells the identity of a catalog: 32 hexadecimal digits. Raises `StorageError` when the catalog cannot tell."""

_TEXT: Final = re.compile(rb"([0-9a-f]{32})\n?")
_MOST_BYTES: Final = 64
# As for any other question; a start does not wait for a bucket that is away.
_ANSWER_SECONDS: Final = 30.0
_START_SECONDS: Final = 5.0
# To look, to write what is not there, and to read it back.
_ATTEMPTS: Final = 3


class ForeignBucket(StorageError):
    """The prefix belongs to another catalog."""


class Owner:
    """Compares the object with the catalog here. It belongs to one event loop.

    Args:
        settings: of the bucket.
        store: asks it.
        identity: of the catalog; None for a prefix that no other catalog can have.
    """

    def __init__(self, settings: S3Settings, store: S3Store, identity: Identity | None) -> None:
        self._place = f"s3://{settings.bucket}/{settings.prefix}"
        self._key = f"{settings.prefix}/{OWNER}".lstrip("/")
        self._store = store
        self._identity = identity
        self._is_ours = identity is None
        self._checking: Together[None, None] = Together(self._check)

    async def aclose(self) -> None:
        """End every check. One that is cut off does no harm: what it wrote or not, the next one reads."""
        await self._checking.cancel()

    async def check(self) -> None:
        """Return when the prefix belongs to this catalog, which takes it where it belongs to none.

        The bucket is asked until it has confirmed that, and not any more.

        Raises:
            ForeignBucket: it belongs to another catalog.
            StorageError: the bucket or the catalog cannot tell.
        """
        if not self._is_ours:
            await self._checking.ask(None)

    async def check_at_start(self) -> None:
        """As `check`; where that cannot be told within seconds, whatever changes the bucket first asks again.

        Raises:
            ForeignBucket: the prefix belongs to another catalog.
        """
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self.check()
        except ForeignBucket:
            raise
        except (StorageError, TimeoutError) as error:
            why = str(error) or "the bucket does not answer"
            _log.warning("%s; until that is known, nothing is written or deleted in %s", why, self._place)

    async def compare(self) -> None:
        """As `check`, and a prefix that belongs to no catalog stays so; raises what that raises."""
        if not self._is_ours:
            with translated("find out which catalog the bucket belongs to"):
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._compare()

    async def _check(self, askers: list[None]) -> list[None]:
        with translated("find out which catalog the bucket belongs to"):
            async with asyncio.timeout(_ANSWER_SECONDS):
                for _ in range(_ATTEMPTS):
                    await self._compare()
                    if self._is_ours:
                        return askers
                    await self._take()
        raise StorageError(f"the bucket has lost {self._key}, which was just written")

    async def _compare(self) -> None:
        assert self._identity is not None
        text = await self._read()
        if text is None:
            return
        named = _TEXT.fullmatch(text)
        if named is None:
            raise StorageError(f"{self._key} in the bucket does not name a catalog")
        if named[1].decode() != await self._identity():
            raise ForeignBucket(
                f"{self._place} belongs to another catalog, whose files this one would delete: name another prefix in "
                "[storage] url, or the [database] url of the servers that use this one; where their catalog is gone, "
                f"delete the object {self._key}"
            )
        self._is_ours = True

    async def _read(self) -> bytes | None:
        try:
            answer = await self._store.get_async(OWNER, options={"range": (0, _MOST_BYTES)})
        except FileNotFoundError as error:
            # Some servers make a bucket when the first object comes.
            if is_absent(error) or has_no_bucket(error):
                return None
            raise
        return bytes(await answer.bytes_async())

    async def _take(self) -> None:
        """Write the object where there is none. A server that ignores the condition keeps the last: it is read back."""
        assert self._identity is not None
        data = f"{await self._identity()}\n".encode()
        try:
            await self._store.put_async(OWNER, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return
        except BaseError as error:
            if not is_not_implemented(error):
                raise
            await self._store.put_async(OWNER, data, use_multipart=False)
