"""The credentials that an upstream asks for, read from files: a bearer token, or a netrc as Nix reads it."""

import base64
import netrc
from pathlib import Path

from harmonia_py.errors import ConfigError, reason_of


def read_authorization(host: str, netrc_file: Path | None, token_file: Path | None) -> str | None:
    """The value of the header `Authorization`; None when no file is named, or the netrc does not know the host.

    Raises:
        ConfigError: a file cannot be read, or does not parse.
    """
    if token_file is not None:
        token = _read(token_file).strip()
        if not token or not token.isascii() or not token.isprintable():
            raise ConfigError(f"{token_file}: holds no token")
        return f"Bearer {token}"
    if netrc_file is None:
        return None
    _read(netrc_file)  # the error of `netrc` for a missing file names neither the file nor the reason
    try:
        entry = netrc.netrc(netrc_file).authenticators(host)
    except (netrc.NetrcParseError, OSError) as error:
        raise ConfigError(f"{netrc_file}: not a netrc: {reason_of(error)}") from None
    if entry is None:
        return None
    login, _, password = entry
    return "Basic " + base64.b64encode(f"{login}:{password}".encode()).decode()


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise ConfigError(f"{file}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not text") from None
