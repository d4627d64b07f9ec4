"""`s3://bucket/prefix?endpoint=…&region=…`: a bucket, and how it is spoken to, as `[storage] url` names it."""

import re
from typing import Final, Self
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from harmonia_py.config.units import parse_size

_MIB: Final = 1024 * 1024
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_PREFIX: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z+\-._?=]*(?:/[0-9A-Za-z][0-9A-Za-z+\-._?=]*)*", re.ASCII)
_REGION: Final = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)
_PARAMETERS: Final = ("endpoint", "region", "path_style", "part_size", "checksum")
_CHECKSUMS: Final = ("none", "sha256", "crc64nvme")
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html: ten thousand at most, so a file of 68 GiB fits.
_LEAST_PART: Final = 7 * _MIB
_MOST_PART: Final = 512 * _MIB
_SWITCH: Final = {"true": True, "false": False}


class BucketUrl(Struct, frozen=True, kw_only=True):
    """A bucket.

    Attributes:
        bucket, prefix, endpoint, region, path_style, part_size, checksum: as in `S3Settings`.
    """

    bucket: str
    prefix: str
    endpoint: str | None
    region: str
    path_style: bool
    part_size: int
    checksum: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the URL.

        Raises:
            ValueError: it is none of a bucket; the message says what is wrong with it, and not whose password it holds.
        """
        parts = urlsplit(text)
        if parts.scheme != "s3" or not parts.netloc:
            raise ValueError("url: not the URL of a bucket; write s3://bucket/prefix?endpoint=https://s3.example.org")
        if "@" in parts.netloc:
            raise ValueError("url: holds a password; write it into a file and name that as credentials_file")
        if _BUCKET.fullmatch(parts.netloc) is None:
            raise ValueError(f"url: not the name of a bucket: {parts.netloc!r}")
        prefix = parts.path.strip("/")
        if parts.fragment or (prefix and _PREFIX.fullmatch(prefix) is None):
            raise ValueError(f"url: not a prefix of keys: {parts.path!r}")
        given = _parameters(parts.query)
        endpoint = given.get("endpoint")
        if endpoint is not None:
            check_endpoint("url: endpoint", endpoint)
        path_style = _SWITCH.get(given.get("path_style", "true" if endpoint else "false"))
        if path_style is None:
            raise ValueError(f"url: path_style: is true or false, not {given['path_style']!r}")
        return cls(
            bucket=parts.netloc,
            prefix=prefix,
            endpoint=None if endpoint is None else endpoint.rstrip("/"),
            region=_region(given.get("region", "us-east-1")),
            path_style=path_style,
            part_size=_part_size(given.get("part_size", "8 MiB")),
            checksum=_checksum(given.get("checksum", "none")),
        )


def check_endpoint(key: str, url: str) -> None:
    """Check that `url` is one of a server.

    Raises:
        ValueError: it is not; the message names `key`.
    """
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{key}: not the URL of a server; write https://s3.example.org")


def _parameters(query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _PARAMETERS:
            raise ValueError(f"url: {name}: is none of {', '.join(_PARAMETERS)}")
        if name in given:
            raise ValueError(f"url: {name}: is there twice")
        given[name] = value
    return given


def _region(text: str) -> str:
    if _REGION.fullmatch(text) is None:
        raise ValueError(f"url: region: not the name of a region: {text!r}")
    return text


def _part_size(text: str) -> int:
    size = parse_size("url: part_size", text)
    if not _LEAST_PART <= size <= _MOST_PART:
        raise ValueError("url: part_size: is between 7 MiB and 512 MiB")
    return size


def _checksum(text: str) -> str | None:
    if text not in _CHECKSUMS:
        raise ValueError(f"url: checksum: is one of {', '.join(_CHECKSUMS)}, not {text!r}")
    return None if text == "none" else text
