"""Files with secret keys: read, made once, and never readable by others."""

import contextlib
import logging
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from harmonia_py.errors import ConfigError, FormatError
from harmonia_py.nix.signing import SecretKey

_log = logging.getLogger(__name__)

GENERATED_KEY_FILE: Final = "secret-key"
_MAX_FILE_SIZE: Final = 4096


def read_secret_keys(files: Iterable[Path], environment: Mapping[str, str]) -> list[SecretKey]:
    """The keys in `files`, in order. A file that others may read is warned of.

    Raises:
        ConfigError: a file that cannot be read or holds no secret key, or two keys of one name.
    """
    keys: list[SecretKey] = []
    for file in files:
        key = _read(file, environment)
        if key in keys:
            continue
        if any(key.name == other.name for other in keys):
            raise ConfigError(
                f"{file}: sign_key_paths: a second key named {key.name!r}; clients tell keys by their names"
            )
        keys.append(key)
    return keys


def write_secret_key(file: Path, key: SecretKey) -> None:
    """Write `key` to a new file of mode 0600; it appears whole or not at all, and never replaces another.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    # Not the process id: in a container that is the same at every start, and a crash may have left a file behind.
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "w") as stream:
                stream.write(key.format() + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            _link(temporary, file)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OSError as error:
        raise ConfigError(f"{file}: cannot write the key: {error.strerror}") from None


def _link(temporary: Path, file: Path) -> None:
    try:
        # A hard link, unlike a rename, fails when the name is taken.
        os.link(temporary, file)
    except FileExistsError:
        raise ConfigError(f"{file}: exists already; a key is never overwritten") from None


def generated_key_file(state_directory: Path) -> Path:
    """The key that is made on first start; it is made now when it is not there.

    Raises:
        ConfigError: it cannot be written.
    """
    file = state_directory / GENERATED_KEY_FILE
    if not file.exists():
        # Two daemons may start at once: whoever comes second uses the first one's key.
        with contextlib.suppress(ConfigError):
            write_secret_key(file, SecretKey.generate(_key_name()))
        if not file.exists():
            write_secret_key(file, SecretKey.generate(_key_name()))
        _log.info("made a signing key: %s", file)
    return file


def _key_name() -> str:
    host = re.sub(r"[^0-9A-Za-z.-]", "-", socket.gethostname()) or "harmonia"
    return f"{host}-1"


def _read(file: Path, environment: Mapping[str, str]) -> SecretKey:
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            key = SecretKey.parse(stream.read(_MAX_FILE_SIZE).decode())
    except OSError as error:
        raise ConfigError(f"{file}: sign_key_paths: {error.strerror}") from None
    except (FormatError, UnicodeDecodeError) as error:
        what = error if isinstance(error, FormatError) else "not text"
        raise ConfigError(f"{file}: sign_key_paths: not a secret key of Nix: {what}") from None
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    if stat.S_IMODE(mode) & 0o077 and not (credentials and file.is_relative_to(credentials)):
        _log.warning("%s: others may read this secret key; chmod 600 it", file)
    return key
