"""The file with the hashes of the tokens that open a cache which is not public."""

import fcntl
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harmonia_py.cache.tokens import TokenHash, Tokens
from harmonia_py.config.key_files import read_secret
from harmonia_py.errors import ConfigError
from harmonia_py.runtime.durable import sync_directory

_log = logging.getLogger(__name__)

# Several times what the largest number of tokens takes.
_MAX_FILE_SIZE: Final = 1024 * 1024


def read_tokens(file: Path, environment: Mapping[str, str]) -> Tokens:
    """The tokens in `file`. One that others may read is warned of.

    Raises:
        ConfigError: it cannot be read, or does not parse.
    """
    kind = "these hashes of tokens"
    tokens = read_secret(file, Tokens.parse, environment, setting="token_file", kind=kind, most=_MAX_FILE_SIZE)
    if not tokens:
        _log.warning("%s: token_file: holds no token, so nobody may read this cache", file)
    return tokens


def add_token(file: Path, token_hash: TokenHash) -> None:
    """Add a line to `file`, which is made with mode 0600 if it is not there; it outlives a power cut from then on.

    Raises:
        ConfigError: it cannot be written, or has a token of that name: one of the two could not be told from the other.
    """
    try:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(fd, "r+b") as stream:
            # Of two that add the same name at once, the second one finds it.
            fcntl.flock(fd, fcntl.LOCK_EX)
            before = stream.read(_MAX_FILE_SIZE)
            if f"\n{token_hash.name}:".encode() in b"\n" + before:
                raise ConfigError(f"{file}: has a token named {token_hash.name!r}; take its line out first")
            # An editor may have left the last line without an end.
            unfinished = before[-1:] not in (b"", b"\n")
            stream.write(b"\n" * unfinished + f"{token_hash}\n".encode())
            stream.flush()
            os.fsync(fd)
        sync_directory(file.parent)
    except OSError as error:
        raise ConfigError(f"{file}: cannot write the token's hash: {error.strerror}") from None
