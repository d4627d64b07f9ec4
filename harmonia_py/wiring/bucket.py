"""The bucket that a configuration names: its settings, and which part of it belongs to what."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError

if TYPE_CHECKING:  # a server that keeps files in directories loads nothing of S3
    from harmonia_py.config.s3_credentials import S3Key
    from harmonia_py.storage.s3.hot import HotSettings
    from harmonia_py.storage.s3.settings import S3Settings

# In a directory of what is kept; keys of blobs do not begin with a dot.
_HOT: Final = ".hot"
_IN_BUCKET: Final = ".bucket"


def check_installed() -> None:
    """Check that obstore, the library that speaks to buckets, is installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("obstore") is None:
        raise ConfigError("storage.url: obstore is not installed: pip install 'harmonia-py[s3]'")


def s3_settings(config: Config) -> "S3Settings | None":
    """The bucket; None where files are kept in directories.

    Raises:
        ConfigError: its credentials cannot be read, or what speaks to it is not installed.
    """
    table = config.storage
    bucket = table.bucket
    if bucket is None:
        return None
    check_installed()
    from harmonia_py.storage.s3.settings import S3Credentials, S3Settings  # noqa: PLC0415

    credentials, key = None, _environment_key()
    if table.credentials_file is not None:
        from harmonia_py.config.s3_credentials import read_s3_credentials  # noqa: PLC0415

        key = read_s3_credentials(Path(table.credentials_file), os.environ)
    if key is not None:
        key_id, secret, token = key
        credentials = S3Credentials(access_key_id=key_id, secret_access_key=secret, session_token=token)
    return S3Settings(
        bucket=bucket.bucket,
        prefix=bucket.prefix,
        endpoint=bucket.endpoint,
        region=bucket.region,
        path_style=bucket.path_style,
        part_size=bucket.part_size,
        checksum=bucket.checksum,
        credentials=credentials,
        public_endpoint=None if table.public_endpoint is None else table.public_endpoint.rstrip("/"),
        public_url=None if table.public_url is None else table.public_url.rstrip("/"),
        redirect_from=table.redirect_bytes,
        redirect_uploads_from=table.redirect_uploads_bytes,
    )


def _environment_key() -> "S3Key | None":
    """The key in the environment; None when there is none: the library of buckets then looks for an identity."""
    key_id, secret, token = (
        os.environ.get(f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
    )
    return (key_id, secret, token or None) if key_id and secret else None


def hot_directory(config: Config) -> Path | None:
    """The settings of copies of the bucket's files; None where there are none."""
    table = config.storage
    if table.hot_max_bytes is None:
        return None
    # Always a directory of its own: copies go for others, and what else were there would go with them.
    return Path(table.hot_directory or config.cache.directory or ".", _HOT)


def hot_settings(config: Config) -> "HotSettings | None":
    """The copies of the bucket's files that this machine has; None for none."""
    directory, max_size = hot_directory(config), config.storage.hot_max_bytes
    if directory is None or max_size is None:
        return None
    from harmonia_py.storage.s3.hot import HotSettings  # noqa: PLC0415

    return HotSettings(directory, max_size, config.cache.min_free_bytes)


class BucketPlace(Struct, frozen=True):
    """The place in a bucket of compressed and mirrored files, where these are not kept in directories.

    Attributes:
        s3: the bucket, of which each directory has a part of its own.
        hot: the copies of its files on this machine; None for none.
    """

    s3: "S3Settings"
    hot: "HotSettings | None"


def bucket_place(config: Config) -> BucketPlace | None:
    """The place by a configuration; None where such files are kept in directories. It may block.

    Raises:
        ConfigError: as `s3_settings` does.
    """
    if config.storage.keep_in_bucket != "everything":
        return None
    s3 = s3_settings(config)
    # Which cache a client asks, and whether that sends its clients to the bucket, is not known where these are kept.
    return None if s3 is None else BucketPlace(replace(s3, redirect_from=None), hot_settings(config))


def beside(directory: Path, place: BucketPlace | None) -> Path:
    """Where the catalog and what is on its way are of files of `directory`, apart from those that are kept in it."""
    return directory if place is None else directory / _IN_BUCKET
