"""The object that names the catalog to which a prefix of a bucket belongs.

    <prefix>/.catalog    the identity of the catalog that took the prefix

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
from harmonia_py.storage.s3.errors import UnlessAbsent, has_no_bucket, is_beyond, is_misunderstood, translated
from harmonia_py.storage.s3.listing import OWNER, pages_of_blobs
from harmonia_py.storage.s3.settings import S3Settings
from harmonia_py.storage.s3.stores import in_time

_log = logging.getLogger(__name__)

Identity = Callable[[], Awaitable[str]]
"""Tells the identity of a catalog: 32 hexadecimal digits. Raises `StorageError` when the catalog cannot tell."""

_TEXT: Final = re.compile(rb"([0-9a-f]{32})\n?")
_MOST_BYTES: Final = 64
# A start does not wait for a bucket that is away.
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
        self._checking: Together[bool, None] = Together(self._check)

    async def aclose(self) -> None:
        """End every check. One that is cut off does no harm: what it wrote or not, the next one reads."""
        await self._checking.cancel()

    async def check(self, *, fits: bool = False) -> None:
        """Return when the prefix belongs to this catalog, which takes it where it belongs to none.

        The bucket is asked until it has confirmed that, and not any more. A prefix with files is taken by a catalog
        that is known to fit them.

        Args:
            fits: whether this one is.

        Raises:
            ForeignBucket: it belongs to another catalog.
            StorageError: the bucket or the catalog cannot tell, or this catalog may not take the prefix.
        """
        if not self._is_ours:
            with translated("find out which catalog the bucket belongs to"):
                await in_time(self._checking.ask(fits))

    async def check_at_start(self) -> None:
        """As `compare`; where that cannot be told within seconds, whatever changes the bucket first asks again.

        Raises:
            ForeignBucket: the prefix belongs to another catalog.
        """
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self.compare()
        except ForeignBucket:
            raise
        except (StorageError, TimeoutError) as error:
            why = str(error) or "the bucket does not answer"
            _log.warning("%s; until that is known, nothing is written or deleted in %s", why, self._place)

    async def compare(self) -> bool:
        """As `check`, which may raise the same, and False for a prefix that belongs to no catalog, and stays so."""
        if not self._is_ours:
            await self._compare()
        return self._is_ours

    async def take_over(self) -> bool:
        """Let the prefix belong to this catalog, also where it belonged to another one, which must be lost.

        Returns:
            Whether it did.

        Raises:
            StorageError: the bucket or the catalog cannot tell, or the bucket does not take the object.
        """
        try:
            await self.check(fits=True)
        except ForeignBucket:
            await self._write(over=True)
            return await self.compare()
        return False

    async def has_files(self) -> bool:
        """Whether there are blobs below the prefix; none are in a bucket that is not there yet.

        Raises:
            StorageError: the bucket cannot tell.
        """
        try:
            async for page in pages_of_blobs(self._store):
                if page:
                    return True
        except StorageError as error:
            if not has_no_bucket(error.__cause__):
                raise
        return False

    async def _check(self, fits: list[bool]) -> list[None]:
        for _ in range(_ATTEMPTS):
            await self._compare()
            if not (self._is_ours or any(fits)) and await self.has_files():
                await self._compare()  # another process may have taken it in between, and kept files
                if not self._is_ours:
                    raise StorageError(
                        f"{self._place} has files and belongs to no catalog: this one takes it when a server, or "
                        "`harmonia-py gc`, has found that it fits them"
                    )
            if self._is_ours:
                return [None] * len(fits)
            await self._write(over=False)
        raise StorageError(f"the bucket has lost {self._key}, which was just written")

    async def _compare(self) -> None:
        assert self._identity is not None
        text = await self._read()
        if text is None:
            return
        named = _TEXT.fullmatch(text)
        if named is None:
            raise StorageError(
                f"the object {self._key} does not name a catalog; delete it: the next catalog that fits the files "
                "writes it anew"
            )
        if named[1].decode() != await self._identity():
            raise ForeignBucket(
                f"{self._place} belongs to another catalog, whose files this one would delete: name another prefix in "
                "[storage] url, or the [database] url of the servers that use this one; where that catalog is gone, or "
                f"took this prefix by mistake, delete the object {self._key}, or fill this catalog from the files, by "
                "`harmonia-py fsck --rebuild --take-over`"
            )
        self._is_ours = True

    async def _read(self) -> bytes | None:
        with translated(f"read {self._key}, which names the catalog that the bucket belongs to"), UnlessAbsent():
            try:
                return await in_time(self._get())
            except FileNotFoundError as error:
                # Some servers make a bucket when the first object comes.
                if not has_no_bucket(error):
                    raise
            except BaseError as error:
                if is_beyond(error):
                    return b""
                raise
        return None

    async def _get(self) -> bytes:
        answer = await self._store.get_async(OWNER, options={"range": (0, _MOST_BYTES)})
        return bytes(await answer.bytes_async())

    async def _write(self, *, over: bool) -> None:
        """Write the object, `over` one that is there or not. A server that ignores the condition keeps the last."""
        assert self._identity is not None
        data = f"{await self._identity()}\n".encode()
        with translated(f"write {self._key}, which names the catalog that the bucket belongs to"):
            if not over:
                try:
                    await in_time(self._store.put_async(OWNER, data, mode="create", use_multipart=False))
                except AlreadyExistsError:
                    return
                except BaseError as error:
                    if not is_misunderstood(error):
                        raise
                else:
                    return
            await in_time(self._store.put_async(OWNER, data, use_multipart=False))
