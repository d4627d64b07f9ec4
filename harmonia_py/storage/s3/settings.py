"""The settings of a bucket: its place, and how requests to it are made."""

from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

MAX_REQUEST: Final = 5 * 1024**3
"""Bytes that one request to S3 sends or copies: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Credentials:
    """The key that signs requests.

    Attributes:
        access_key_id: the public name of the key.
        secret_access_key: the key.
        session_token: sent with a temporary key; None for others.
    """

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class S3Settings(Struct, frozen=True, kw_only=True):
    """A bucket.

    Attributes:
        bucket: its name.
        prefix: of all keys in it, without slashes at its ends; empty for none.
        endpoint: the URL of the server, without the bucket; None for Amazon's of the region.
        region: that requests are signed for.
        path_style: whether URLs have the bucket in their path; otherwise it is a part of the host name.
        part_size: bytes of the parts of large uploads; smaller files are one request.
        checksum: the algorithm of the checksum that uploads carry; None for none, which every server understands.
        credentials: sign the requests; None: those of the environment, as the tools of Amazon find them.
        public_endpoint: the URL of the server as clients reach it; None when they are never sent there.
        public_url: the URL of the bucket for readers without credentials, prefix included; None: it is not public.
        redirect_from: bytes from which on clients are sent to the bucket for a file; None: for no file.
        redirect_uploads_from: bytes from which on clients push a file to the bucket itself; None: no file.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    path_style: bool = True
    part_size: int = 8 * 1024 * 1024
    checksum: str | None = None
    credentials: S3Credentials | None = None
    public_endpoint: str | None = None
    public_url: str | None = None
    redirect_from: int | None = None
    redirect_uploads_from: int | None = None
