"""The file that signs requests to a bucket: a section with a key, as the tools of Amazon write it."""

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harmonia_py.config.key_files import read_secret
from harmonia_py.errors import FormatError

_NAMES: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_ADVICE: Final = "{}; write [default], aws_access_key_id = … and aws_secret_access_key = …, a line each"

S3Key = tuple[str, str, str | None]
"""The id of a key, the key, and the token of a session if there is one."""


def read_s3_credentials(file: Path, environment: Mapping[str, str]) -> S3Key:
    """The key in the first section of `file`. One that others may read is warned of.

    Raises:
        ConfigError: the file cannot be read, or has none.
    """
    return read_secret(file, _parse, environment, setting="storage.credentials_file", advice=_ADVICE)


def _parse(text: str) -> S3Key:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error:
        raise FormatError("not a file of credentials") from None
    section: Mapping[str, str] = parser[parser.sections()[0]] if parser.sections() else {}
    key_id, secret, token = (section.get(name) or None for name in _NAMES)
    if key_id is None or secret is None:
        raise FormatError(f"{_NAMES[0] if key_id is None else _NAMES[1]} is missing")
    return key_id, secret, token
