"""The files that clients send to the bucket itself, put together where a bucket is configured."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from harmonia_py.push.multipart_pushes import FindSession, MultipartPushes
from harmonia_py.push.pending import PendingUploads
from harmonia_py.push.receiving import Receiver
from harmonia_py.wiring.pools import running

if TYPE_CHECKING:
    from harmonia_py.storage.s3.blobs import S3Blobs
    from harmonia_py.storage.s3.settings import S3Settings


class PastServer(Struct, frozen=True):
    """The ways past this server.

    Attributes:
        pending: for files that come in one request.
        in_parts: for those that come in parts; None where nothing here can sign for that.
    """

    pending: PendingUploads
    in_parts: MultipartPushes | None


@asynccontextmanager
async def past_server(
    s3: "S3Settings", bucket: "S3Blobs", receiver: Receiver, find_session: FindSession
) -> AsyncIterator[PastServer | None]:
    """The ways past this server to a bucket; None when clients are not sent there."""
    from harmonia_py.storage.s3.uploads import MAX_UPLOAD, S3Uploads  # noqa: PLC0415

    least = s3.redirect_uploads_from
    if s3.public_endpoint is None or least is None:
        yield None
        return
    pending = PendingUploads(S3Uploads(bucket), receiver, least=least, most=MAX_UPLOAD)
    in_parts = None
    async with AsyncExitStack() as resources:
        if s3.credentials is not None:
            from harmonia_py.storage.s3.multipart import Multipart  # noqa: PLC0415
            from harmonia_py.storage.s3.multipart_uploads import S3MultipartUploads  # noqa: PLC0415
            from harmonia_py.storage.s3.stores import bucket_url  # noqa: PLC0415

            multipart = Multipart(s3, s3.credentials)
            resources.push_async_callback(multipart.aclose)
            uploads = S3MultipartUploads(multipart, bucket.objects)
            in_parts = MultipartPushes(
                uploads,
                receiver,
                find_session,
                part_size=s3.part_size,
                least=least,
                place=bucket_url(s3, s3.public_endpoint),
            )
            await running(in_parts.sweep)(resources)
        await running(pending.sweep)(resources)
        yield PastServer(pending, in_parts)
