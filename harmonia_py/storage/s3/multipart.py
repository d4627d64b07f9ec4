"""What S3 calls multipart uploads: begun, completed, aborted and listed here; clients send the parts themselves.

The library of buckets makes none of these requests. Each is signed as a URL, which works for bodies of any length.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

from harmonia_py.errors import FormatError, StorageError
from harmonia_py.push.past_server.ports import BucketUpload
from harmonia_py.runtime.side_by_side import side_by_side
from harmonia_py.storage.s3.metadata import DEFAULT_TYPE
from harmonia_py.storage.s3.settings import MAX_REQUEST, S3Credentials, S3Settings
from harmonia_py.storage.s3.signature import Signer
from harmonia_py.storage.s3.signed_requests import Answer, SignedRequests
from harmonia_py.storage.s3.stores import bucket_url

PART_SECONDS: Final = 900
"""For so long a client may begin to send a part to the URL for it."""

# Amazon puts parts together, and copies five gibibytes, in about a minute; other servers read and write them.
_WORK_SECONDS: Final = 180.0
# A server that stops does not wait for longer.
_ABORT_SECONDS: Final = 5.0
# Of a longer object, copied at once, so many at a time.
_COPIED_AT_ONCE: Final = 4
_MOST_COPIED: Final = 512 * 1024**2
_LISTED: Final = 1000
_MOST_PAGES: Final = 20
_NO_UPLOAD: Final = "NoSuchUpload"
# What else S3 answers with 400, such as ExpiredToken and RequestTimeout, says nothing of the parts:
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html
_WRONG_PARTS: Final = frozenset({"EntityTooSmall", "InvalidPart", "InvalidPartOrder", "MalformedXML"})
_XML: Final = {"content-type": "application/xml"}


class Multipart:
    """Uploads in parts to one bucket. It belongs to the event loop in which it is made.

    Args:
        settings: of the bucket.
        credentials: sign the requests.
        max_copy: bytes that one request copies.
    """

    def __init__(self, settings: S3Settings, credentials: S3Credentials, *, max_copy: int = MAX_REQUEST) -> None:
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._bucket = settings.bucket
        self._requests = SignedRequests(
            Signer(bucket_url=bucket_url(settings, settings.endpoint), region=settings.region, credentials=credentials),
            settings.prefix,
        )
        # Clients may know the bucket by another name.
        self._for_clients = Signer(
            bucket_url=bucket_url(settings, settings.public_endpoint), region=settings.region, credentials=credentials
        )
        self._max_copy = max_copy

    async def aclose(self) -> None:
        """Close the connections."""
        await self._requests.aclose()

    async def begin(self, name: str) -> str:
        """Begin the upload of the file of a NAR; its id.

        Raises:
            StorageError: the bucket does not begin one.
        """
        answer = await self._requests.ask("POST", name, {"uploads": ""}, headers={"content-type": DEFAULT_TYPE})
        upload = answer.one("UploadId")
        if not answer.is_good or not upload:
            raise StorageError(f"cannot begin an upload: {answer.describe()}")
        return upload

    def part_url(self, name: str, upload: str, number: int, size: int) -> str:
        """The URL at which a client sends part `number`, counted from 1, of exactly `size` bytes; nothing is asked."""
        return self._for_clients.url(
            "PUT",
            self._prefix + name,
            {"partNumber": str(number), "uploadId": upload},
            seconds=PART_SECONDS,
            # A client that sends more, or less, has no signature for that.
            headers={"content-length": str(size)},
        )

    async def complete(self, name: str, upload: str, etags: Sequence[str]) -> bool:
        """Make an object of the parts with these tags, in this order; False when there is no such upload any more.

        Raises:
            FormatError: they are not the parts that were sent, or too small.
            StorageError: the bucket cannot tell.
        """
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in enumerate(etags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        answer = await self._requests.ask("POST", name, {"uploadId": upload}, body, headers=_XML, seconds=_WORK_SECONDS)
        if answer.status == HTTPStatus.NOT_FOUND and answer.code == _NO_UPLOAD:
            return False
        if answer.code in _WRONG_PARTS:
            raise FormatError(f"the parts are not those that the bucket has ({answer.code})")
        if not answer.is_good:
            raise StorageError(f"cannot put the parts of a file together: {answer.describe()}")
        return True

    async def abort(self, name: str, upload: str) -> None:
        """Forget an upload and its parts; nothing happens when there is none.

        Raises:
            StorageError: the bucket does not.
        """
        answer = await self._requests.ask("DELETE", name, {"uploadId": upload})
        if not answer.is_good and answer.code != _NO_UPLOAD:
            raise StorageError(f"cannot abort an upload: {answer.describe()}")

    async def open_uploads(self, prefix: str) -> Sequence[BucketUpload]:
        """Uploads of names below `prefix`, at most some twenty thousand.

        A server that lists the uploads of whole names alone (MinIO) tells of none.

        Raises:
            StorageError: the bucket cannot tell.
        """
        found: list[BucketUpload] = []
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            query = {"uploads": "", "prefix": self._prefix + prefix, "max-uploads": str(_LISTED), **after}
            answer = await self._requests.ask("GET", "", query)
            if not answer.is_good:
                raise StorageError(f"cannot list uploads: {answer.describe()}")
            found += map(self._upload_of, re.findall(r"<Upload>(.*?)</Upload>", answer.text, re.DOTALL))
            after = {
                parameter: marker
                for parameter, element in (("key-marker", "NextKeyMarker"), ("upload-id-marker", "NextUploadIdMarker"))
                if (marker := answer.one(element))
            }
            if answer.one("IsTruncated") != "true" or not after:
                break
        return found

    def _upload_of(self, text: str) -> BucketUpload:
        one = Answer(HTTPStatus.OK, text)
        return BucketUpload((one.one("Key") or "").removeprefix(self._prefix), one.one("UploadId") or "")

    async def copy(self, name: str, to: str, etag: str, size: int) -> None:
        """Let an object that has this tag appear under another name as well; one that has another tag does not.

        Raises:
            StorageError: it will not appear.
        """
        source = {
            "x-amz-copy-source": quote(f"/{self._bucket}/{self._prefix}{name}"),
            "x-amz-copy-source-if-match": etag,
        }
        if size <= self._max_copy:
            answer = await self._requests.ask("PUT", to, {}, headers=source, seconds=_WORK_SECONDS)
            if not answer.is_good:
                raise StorageError(f"cannot copy a file in the bucket: {answer.describe()}")
            return
        upload = await self.begin(to)
        try:
            etags = await self._copy_parts(to, upload, source, size)
            is_there = await self.complete(to, upload, etags)
        except (FormatError, StorageError) as error:
            await self._give_up(to, upload)
            raise StorageError(f"cannot copy a file in the bucket: {error}") from error
        except BaseException:  # such as the stop of this server: no sweep looks for an upload under this name
            await asyncio.shield(self._give_up(to, upload))
            raise
        if not is_there:
            raise StorageError("cannot copy a file in the bucket: it has lost what it has copied")

    async def _give_up(self, name: str, upload: str) -> None:
        with suppress(StorageError, TimeoutError):
            async with asyncio.timeout(_ABORT_SECONDS):
                await self.abort(name, upload)

    async def _copy_parts(self, to: str, upload: str, source: Mapping[str, str], size: int) -> Sequence[str]:
        step = min(self._max_copy, _MOST_COPIED)
        starts = range(0, size, step)
        etags = [""] * len(starts)

        async def copy(index: int) -> None:
            start = starts[index]
            wanted = f"bytes={start}-{min(start + step, size) - 1}"
            query = {"partNumber": str(index + 1), "uploadId": upload}
            headers = {**source, "x-amz-copy-source-range": wanted}
            answer = await self._requests.ask("PUT", to, query, headers=headers, seconds=_WORK_SECONDS)
            etag = answer.one("ETag")
            if not answer.is_good or not etag:
                raise StorageError(answer.describe())
            etags[index] = etag

        await side_by_side(copy, range(len(starts)), at_once=_COPIED_AT_ONCE)
        return etags
