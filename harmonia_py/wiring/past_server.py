"""The files that clients send to the bucket itself, put together where a bucket is configured."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.push.past_server.parts import FindSession, MultipartPushes
from harmonia_py.push.past_server.single import PendingUploads
from harmonia_py.wiring.pools import running

if TYPE_CHECKING:
    from harmonia_py.storage.s3.blobs import S3Blobs
    from harmonia_py.storage.s3.settings import S3Settings


async def open_past_server(
    s3: "S3Settings",
    bucket: "S3Blobs",
    find_session: FindSession,
    now: Callable[[], Timestamp],
    resources: AsyncExitStack,
) -> tuple[PendingUploads | None, MultipartPushes | None]:
    """The files that clients send to a bucket in one request, and those that they send in parts.

    The first is None when clients are not sent there, the second when nothing here can sign for that. Both end when
    `resources` close.
    """
    from harmonia_py.storage.s3.settings import MAX_REQUEST  # noqa: PLC0415
    from harmonia_py.storage.s3.uploads import S3Uploads  # noqa: PLC0415

    least = s3.redirect_uploads_from
    if s3.public_endpoint is None or least is None:
        return None, None
    pending, in_parts = PendingUploads(S3Uploads(bucket), range(least, MAX_REQUEST + 1)), None
    if s3.credentials is not None:
        from harmonia_py.storage.s3.multipart import Multipart  # noqa: PLC0415
        from harmonia_py.storage.s3.multipart_uploads import S3MultipartUploads  # noqa: PLC0415
        from harmonia_py.storage.s3.stores import bucket_url  # noqa: PLC0415

        multipart = Multipart(s3, s3.credentials)
        resources.push_async_callback(multipart.aclose)
        in_parts = MultipartPushes(
            S3MultipartUploads(multipart, bucket.objects),
            find_session,
            part_size=s3.part_size,
            least=least,
            place=bucket_url(s3, s3.public_endpoint),
            now=now,
        )
        await running(in_parts.sweep)(resources)
    await running(pending.sweep)(resources)
    return pending, in_parts
