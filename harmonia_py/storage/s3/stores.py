"""Clients of a bucket: how long they wait, how often they try again, and what signs their requests."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from obstore.store import S3Store

from harmonia_py.storage.s3.settings import S3Settings

if TYPE_CHECKING:
    from obstore.store import BackoffConfig

T = TypeVar("T")

_CONNECT: Final = timedelta(seconds=5)
# A question about one object is answered in milliseconds; with two more attempts it takes less than clients wait.
_ANSWER: Final = timedelta(seconds=8)
# A part of an upload has to arrive within this time, and a download has to go on.
_STALL: Final = timedelta(seconds=60)
# The body of a file goes to its client as slowly as that one reads.
_BODY: Final = timedelta(hours=24)
# Amazon copies five gibibytes in about a minute; other servers read and write them.
_COPY: Final = timedelta(seconds=180)
# A bucket that has not answered by then, attempts included, will not answer in time for any client.
_ANSWER_SECONDS: Final = 30.0
_QUESTION_RETRIES: Final = timedelta(seconds=20)
_BODY_RETRIES: Final = timedelta(seconds=120)
_BACKOFF: Final["BackoffConfig"] = {
    "init_backoff": timedelta(milliseconds=100),
    "max_backoff": timedelta(seconds=3),
    "base": 2,
}


async def in_time(answer: Awaitable[T]) -> T:
    """The answer of a bucket, which comes within half a minute.

    Raises:
        TimeoutError: the bucket does not answer.
    """
    async with asyncio.timeout(_ANSWER_SECONDS):
        return await answer


def question_store(settings: S3Settings) -> S3Store:
    """A client for what is answered at once."""
    return _store(settings, settings.endpoint, _ANSWER, retries=2, retry_time=_QUESTION_RETRIES)


def body_store(settings: S3Settings) -> S3Store:
    """A client for what takes as long as it takes."""
    return _store(settings, settings.endpoint, _STALL, retries=3, retry_time=_BODY_RETRIES)


def copy_store(settings: S3Settings) -> S3Store:
    """A client for copies, which the server makes by itself before it answers."""
    return _store(settings, settings.endpoint, _COPY, retries=1, retry_time=_QUESTION_RETRIES)


def signing_store(settings: S3Settings) -> S3Store | None:
    """The signer of URLs for clients, which asks nothing; None when clients cannot reach the bucket."""
    if settings.public_endpoint is None:
        return None
    return _store(settings, settings.public_endpoint, _ANSWER, retries=0, retry_time=_QUESTION_RETRIES)


def _store(
    settings: S3Settings, endpoint: str | None, read_timeout: timedelta, *, retries: int, retry_time: timedelta
) -> S3Store:
    options: dict[str, Any] = {"region": settings.region}
    if endpoint is not None:
        options["endpoint"] = endpoint if settings.path_style else with_bucket(endpoint, settings.bucket)
    if not settings.path_style:
        options["virtual_hosted_style_request"] = True
    if settings.checksum is not None:
        options["checksum_algorithm"] = settings.checksum
    if endpoint is not None and endpoint.startswith("https:"):
        # The hash of the body would be computed once more, for what TLS sees to already.
        options["unsigned_payload"] = True
    if settings.credentials is not None:
        options["access_key_id"] = settings.credentials.access_key_id
        options["secret_access_key"] = settings.credentials.secret_access_key
        if settings.credentials.session_token is not None:
            options["session_token"] = settings.credentials.session_token
    return S3Store(
        settings.bucket,
        prefix=settings.prefix or None,
        client_options={
            "allow_http": endpoint is not None and endpoint.startswith("http:"),
            "connect_timeout": _CONNECT,
            "read_timeout": read_timeout,
            "timeout": _BODY,
        },
        retry_config={"max_retries": retries, "retry_timeout": retry_time, "backoff": _BACKOFF},
        **options,
    )


def with_bucket(endpoint: str, bucket: str) -> str:
    """The URL of a server with the bucket in its host name."""
    parts = urlsplit(endpoint)
    return parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()


def bucket_url(settings: S3Settings, endpoint: str | None) -> str:
    """The URL of the bucket at a server, None for Amazon's of the region, without the prefix of the keys."""
    endpoint = endpoint or f"https://s3.{settings.region}.amazonaws.com"
    return f"{endpoint}/{settings.bucket}" if settings.path_style else with_bucket(endpoint, settings.bucket)
