"""`server.toml` of atticd, as far as it says where things are.

Source: `server/src/config.rs` of Attic, and the manual of humantime for its times.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from harmonia_py.errors import ConfigError

_DATABASE_VARIABLE: Final = "ATTIC_SERVER_DATABASE_URL"
_UNITS: Final = {
    "s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "m": 60, "h": 3600, "hr": 3600, "hour": 3600,
    "d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800, "month": 2_630_016, "M": 2_630_016,
    "y": 31_557_600, "year": 31_557_600,
}  # fmt: skip
_TIME: Final = re.compile(r"([0-9]{1,9})\s*([A-Za-z]{1,8})", re.ASCII)
_TIMES: Final = re.compile(rf"\s*(?:{_TIME.pattern}\s*)+", re.ASCII)
_MAX_FILE_SIZE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The storage of an Attic server.

    Attributes:
        database: the URL of its database.
        directory: of its files; None where they are in a bucket.
        bucket: what the library for buckets is told; None where they are in a directory.
        retention_seconds: of caches without a setting of their own; None: for ever.
    """

    database: str = field(repr=False)
    directory: Path | None = None
    bucket: Mapping[str, Any] | None = field(default=None, repr=False)
    retention_seconds: int | None = None

    @classmethod
    def read(cls, file: Path, environment: Mapping[str, str], *, database: str | None = None) -> Self:
        """The configuration in a file, with `database` in the place of the URL that it says, where one is given.

        Raises:
            ConfigError: it cannot be read, or names no storage.
        """
        try:
            with file.open("rb") as stream:
                return cls.parse(stream.read(_MAX_FILE_SIZE).decode(), environment, database=database)
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from None
        except KeyError as error:
            raise ConfigError(f"{file}: not the configuration of atticd: {error} is missing") from None
        except (TypeError, AttributeError):
            raise ConfigError(f"{file}: not the configuration of atticd: a setting is of another kind") from None

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str], *, database: str | None = None) -> Self:
        """Read the text of such a file."""
        table = tomllib.loads(text)
        url = database or table.get("database", {}).get("url") or environment[_DATABASE_VARIABLE]
        storage, collection = table["storage"], table.get("garbage-collection", {})
        is_local = storage["type"] == "local"
        return cls(
            database=url,
            directory=Path(storage["path"]) if is_local else None,
            bucket=None if is_local else _bucket(storage),
            retention_seconds=_seconds(collection.get("default-retention-period", "0s")),
        )


def _bucket(storage: Mapping[str, Any]) -> Mapping[str, Any]:
    given: dict[str, Any] = {name: storage[name] for name in ("endpoint",) if name in storage}
    keys = storage.get("credentials", {})
    given |= {name: keys[name] for name in ("access_key_id", "secret_access_key") if name in keys}
    if str(given.get("endpoint", "")).startswith("http://"):
        given["client_options"] = {"allow_http": True}
    return given


def _seconds(text: str) -> int | None:
    """`6 months`, `1year 2weeks`; None for no time, and for what is no time."""
    if _TIMES.fullmatch(text) is None:
        return None
    total = 0
    for number, word in _TIME.findall(text):
        unit = _UNITS.get(word) or _UNITS.get(word.removesuffix("s"))
        if unit is None:
            return None
        total += int(number) * unit
    return total or None
