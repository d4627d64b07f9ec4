"""The servers that this user is logged in to, with their tokens: a file that only its owner reads."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

import tomli_w

from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.config.private_file import read_private, write_private
from harmonia_py.errors import ConfigError, naming, reason_of

_NAME: Final = "harmonia-py/logins.toml"
_TOKEN_VARIABLE: Final = "HARMONIA_PY_TOKEN"  # noqa: S105  # the name of a variable
# For services, which are handed secrets in files.
_TOKEN_FILE_VARIABLE: Final = "HARMONIA_PY_TOKEN_FILE"  # noqa: S105  # as above


@dataclass(frozen=True, slots=True)
class CacheUrl:
    """A cache on a server.

    Attributes:
        server: the URL of the server, without a slash at the end.
        name: of the cache.
        token: for the server; None when there is none.
    """

    server: str
    name: CacheName
    token: str | None = field(repr=False)

    @property
    def root(self) -> str:
        """The place of the cache on the server: `team/`, or nothing for the one at `/`."""
        return "" if self.name == DEFAULT else f"{self.name}/"

    @property
    def url(self) -> str:
        """The URL that a substituter is configured with."""
        return f"{self.server}/{self.root}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Logins:
    """The logins of a user.

    Attributes:
        servers: tokens by the URLs of servers, the latest login last; an empty one where none is needed.
    """

    servers: Mapping[str, str] = field(repr=False)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file; one that is not there has no logins.

        Raises:
            ConfigError: it cannot be read, or does not parse.
        """
        text = read_private(file)
        if text is None:
            return cls({})
        try:
            servers = tomllib.loads(text).get("servers", {})
            return cls({str(url): str(fields.get("token", "")) for url, fields in servers.items()})
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file}: {error}") from None
        except AttributeError:
            raise ConfigError(f"{file}: no file of logins: remove it, and log in again") from None

    def write(self, file: Path) -> None:
        """Put them in the place of what the file has.

        Raises:
            ConfigError: it cannot be written.
        """
        servers = {url: ({"token": token} if token else {}) for url, token in self.servers.items()}
        write_private(file, tomli_w.dumps({"servers": servers}))

    def with_(self, url: str, token: str | None) -> "Logins":
        """These logins and one more, the latest."""
        return Logins({**self.without(url).servers, url: token or ""})

    def without(self, url: str) -> "Logins":
        """These logins without one."""
        return Logins({other: token for other, token in self.servers.items() if other != url})

    def find(self, text: str, environment: Mapping[str, str]) -> CacheUrl:
        """The cache that a user names: `team` on the server of the latest login, `host/team`, or a whole URL.

        A token in the environment, or in the file that it names, is for whichever it is.

        Raises:
            ConfigError: no login has such a server, it is no name of a cache, or the file cannot be read.
        """
        given = environment.get(_TOKEN_VARIABLE) or _read_token(environment.get(_TOKEN_FILE_VARIABLE)) or None
        if "://" in text:
            server, name = split_url(text)
        elif "/" in text:
            host, _, name_text = text.rpartition("/")
            found = [url for url in self.servers if urlsplit(url).netloc + urlsplit(url).path == host]
            if not found:
                raise ConfigError(f"{text}: not logged in to {host}: `harmonia-py login URL` first")
            server, name = found[-1], _cache_name(name_text)
        else:
            if not self.servers:
                raise ConfigError(f"{text}: not logged in anywhere: `harmonia-py login URL` first, or name a whole URL")
            server, name = list(self.servers)[-1], _cache_name(text)
        return CacheUrl(server, name, given or self.servers.get(server) or None)


def _read_token(file: str | None) -> str:
    if not file:
        return ""
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_TOKEN_FILE_VARIABLE}: {file}: {reason_of(error)}") from None


def logins_file(environment: Mapping[str, str]) -> Path:
    """The file of this user's logins: below `$XDG_CONFIG_HOME`, or `~/.config`."""
    home = environment.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path("~/.config").expanduser()) / _NAME


def find_cache(text: str, environment: Mapping[str, str]) -> CacheUrl:
    """The cache that a user names, by the logins of this user: as `Logins.find`.

    Raises:
        ConfigError: as `Logins.find`, or the file of the logins cannot be read.
    """
    return Logins.read(logins_file(environment)).find(text, environment)


def parse_server(text: str) -> str:
    """The URL of a server as logins have it.

    Raises:
        ConfigError: it is none, or has a part that no server's has.
    """
    parts = _split(text)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def split_url(text: str) -> tuple[str, CacheName]:
    """The server and the cache of a cache's URL: a last segment that can be a name is one.

    Raises:
        ConfigError: it is no URL.
    """
    parts = _split(text)
    base, _, last = parts.path.rstrip("/").rpartition("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return (f"{origin}{base}", _cache_name(last)) if last else (origin, DEFAULT)


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or not parts.netloc.isprintable():
        raise ConfigError(f"{text}: not the URL of a server, such as https://cache.example.org")
    if parts.username is not None:
        raise ConfigError("a token does not go into the URL: give it as an argument of its own")
    return parts


def _cache_name(text: str) -> CacheName:
    with naming(text):
        return CacheName.parse(text)
