"""Files with secret keys: read, made once, and never readable by others."""

import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from harmonia_py.catalog.key_encryption import KeyEncryption
from harmonia_py.config.private_file import written_beside
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError, FormatError
from harmonia_py.nix.signing import SecretKey
from harmonia_py.runtime.durable import make_directories

T = TypeVar("T")

_log = logging.getLogger(__name__)

# Where systemd.exec(5), "Credentials", has the credentials of all system services, a directory for each.
CREDENTIALS: Final = Path("/run/credentials")

# Base 64 of the PEM of the longest RSA key that anyone uses has 9 KiB.
_MAX_FILE_SIZE: Final = 16 * 1024


def read_secret_keys(files: Iterable[Path], environment: Mapping[str, str]) -> list[SecretKey]:
    """The keys in `files`, in order. A file that others may read is warned of.

    Raises:
        ConfigError: a file that cannot be read or holds no secret key, or two keys of one name.
    """
    keys: list[SecretKey] = []
    for file in files:
        advice = "not a secret key of Nix: {}"
        key = read_secret(file, SecretKey.parse, environment, setting="sign_key_paths", advice=advice)
        if key in keys:
            continue
        if any(key.name == other.name for other in keys):
            raise ConfigError(
                f"{file}: sign_key_paths: a second key named {key.name!r}; clients tell keys by their names"
            )
        keys.append(key)
    return keys


def read_signing_keys(config: Config, environment: Mapping[str, str], *, make: bool = False) -> list[SecretKey]:
    """The secret keys of a server with this configuration.

    Args:
        config: names the files.
        environment: of the process.
        make: make the key that is made at the first start, where it is missing; otherwise it is left out.

    Raises:
        ConfigError: as `read_secret_keys` and `make_key`.
    """
    file = config.generated_key_file
    if file is None:
        return read_secret_keys(config.key_files, environment)
    if make:
        make_key(file)
    return read_secret_keys([file] if make or file.exists() else [], environment)


def read_key_encryption(config: Config, environment: Mapping[str, str]) -> KeyEncryption | None:
    """The encryption of the keys in the catalog; None where `config` names no file for it.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    if config.key_encryption_file is None:
        return None
    file = Path(config.key_encryption_file)
    advice = "{}; `openssl rand -base64 32` makes one"
    return read_secret(file, KeyEncryption.parse, environment, setting="key_encryption_file", advice=advice)


def read_database_password(config: Config, environment: Mapping[str, str]) -> str | None:
    """The password of the database; None where `config` names no file for it.

    Raises:
        ConfigError: the file cannot be read, or has no line of text.
    """
    if config.database.password_file is None:
        return None
    file = Path(config.database.password_file)
    return read_secret(file, _parse_password, environment, setting="database.password_file", kind="this password")


def _parse_password(text: str) -> str:
    password = text.removesuffix("\n")
    if not password or "\n" in password or "\0" in password:
        raise FormatError("not one line with a password")
    return password


def write_secret_key(file: Path, key: SecretKey) -> None:
    """Write `key` to a new file of mode 0600; it appears whole or not at all, and never replaces another.

    When it returns the file outlives a power cut: the public half may be announced.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    try:
        make_directories(file.parent)
        with written_beside(file, f"{key.format()}\n".encode()) as new:
            _link(new, file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot write the key: {error.strerror}") from None


def _link(new: Path, file: Path) -> None:
    try:
        # A hard link, unlike a rename, fails when the name is taken.
        os.link(new, file)
    except FileExistsError:
        raise ConfigError(f"{file}: exists already; a key is never overwritten") from None


def make_key(file: Path) -> None:
    """Make a key in `file`, named after this machine, unless the file exists.

    Raises:
        ConfigError: it cannot be written.
    """
    if file.exists():
        return
    try:
        write_secret_key(file, SecretKey.generate(_key_name()))
    except ConfigError as error:
        # Two servers may start at once: the second one uses the key of the first.
        if not file.exists():
            raise ConfigError(f"{error}; name a key in sign_key_paths, or set sign = false") from None
    else:
        _log.info("made a signing key: %s", file)


def _key_name() -> str:
    host = re.sub(r"[^0-9A-Za-z.-]", "-", socket.gethostname()) or "harmonia"
    return f"{host}-1"


def read_secret(
    file: Path,
    parse: Callable[[str], T],
    environment: Mapping[str, str],
    *,
    setting: str,
    advice: str = "{}",
    kind: str = "this secret key",
    most: int = _MAX_FILE_SIZE,
) -> T:
    """The secret in a file that `setting` names. One that others may read is warned of.

    Args:
        file: with the secret.
        parse: reads its text.
        environment: of the process.
        setting: for the error of a file that cannot be read.
        advice: what is wrong with one that does not parse; `{}` is what `parse` says.
        kind: what others may read, for the warning.
        most: bytes that are read.

    Raises:
        ConfigError: the file cannot be read, or does not parse.
    """
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            found = parse(stream.read(most).decode())
    except OSError as error:
        raise ConfigError(f"{file}: {setting}: {error.strerror}") from None
    except (FormatError, UnicodeDecodeError) as error:
        what = advice.format(error if isinstance(error, FormatError) else "not text")
        raise ConfigError(f"{file}: {setting}: {what}") from None
    if stat.S_IMODE(mode) & 0o077 and not is_credential(file, environment):
        _log.warning("%s: others may read %s; chmod 600 it", file, kind)
    return found


def is_credential(file: Path, environment: Mapping[str, str]) -> bool:
    """Whether systemd guards the file: no other user enters the directory of a service's credentials.

    An access control list lets the user of the service read them, and shows as permissions of the group.
    """
    credentials = environment.get("CREDENTIALS_DIRECTORY")
    return file.is_relative_to(CREDENTIALS) or (bool(credentials) and file.is_relative_to(str(credentials)))
