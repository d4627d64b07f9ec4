"""`harmonia.toml` and the environment, read.

The keys are Harmonia's, so that its users keep their file; the sectioned form that guides on the web show is folded
into the same settings. Nothing here opens a socket or a key.
"""

import logging
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import tomli_w

from harmonia_py.config.cache_table import Cache
from harmonia_py.config.oidc_table import Oidc, OidcRule
from harmonia_py.config.problems import Place, problems_of, suggest
from harmonia_py.config.settings import KNOWN_KEYS, Config
from harmonia_py.config.storage_tables import Database, KeptNars, Storage
from harmonia_py.config.tables import Limits, Policy, Zstd
from harmonia_py.config.upstream_tables import Mirror, Upstream
from harmonia_py.errors import ConfigError

_log = logging.getLogger(__name__)

DEFAULT_FILE: Final = Path("settings.toml")
SYSTEM_FILE: Final = Path("/etc/harmonia-py/settings.toml")

_TABLES: Final = {
    "zstd": Zstd,
    "cache": KeptNars,
    "database": Database,
    "limits": Limits,
    "policy": Policy,
    "storage": Storage,
    "mirror": Mirror,
    "upstream": Upstream,
}

# The sectioned form, and Harmonia's older names, as the settings they stand for.
_SECTIONS: Final = {
    ("server", "listen"): "bind",
    ("server", "base-url"): "base_url",
    ("server", "workers"): "workers",
    ("store", "path"): "virtual_nix_store",
}
_LEVELS: Final = {
    "warning": "warn",
    "off": "error",
    **{level: level for level in ("error", "warn", "info", "debug", "trace")},
}


def find_file(named: str | None, environment: Mapping[str, str]) -> Path | None:
    """The configuration file: the one named, `$CONFIG_FILE`, `./settings.toml` if it exists, or none.

    A command that root calls works on the state of the service, in /var/lib/harmonia-py: so it takes the file of the
    service, if there is one, before none.

    Raises:
        ConfigError: a file was named and is not there.
    """
    name = named or environment.get("CONFIG_FILE")
    if not name:
        is_of_service = os.geteuid() == 0 and not environment.get("STATE_DIRECTORY")
        candidates = [DEFAULT_FILE, SYSTEM_FILE] if is_of_service else [DEFAULT_FILE]
        return next((file for file in candidates if file.is_file()), None)
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    return path


def load(file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any]) -> Config:
    """The configuration: defaults, then `file`, then the environment, then `overrides` from the command line.

    Raises:
        ConfigError: everything that is wrong, a line each, with the name of the file and of the key.
    """
    unknown: list[str] = []
    settings = _read(file, unknown) if file is not None else {}
    name = str(file) if file is not None else "configuration"
    found = _from_environment(environment, settings)
    given = settings | found | dict(overrides)
    problems = [f"{file}: {what}" for what in unknown]
    problems += [
        f"{_source(problem.place, settings, found, overrides) or name}: {problem}" for problem in problems_of(given)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    config = msgspec.convert(given, Config)
    for key in ("sign_key_path", "max_connection_rate"):
        if getattr(config, key) is not None:
            reason = "use sign_key_paths" if key == "sign_key_path" else "it has no effect here"
            _log.warning("%s: %s: %s", name, key, reason)
    return config


def _source(
    place: Place, settings: Mapping[str, Any], found: Mapping[str, Any], overrides: Mapping[str, Any]
) -> str | None:
    """The origin of the value at `place`, if that is not the file."""
    if place and place[0] in overrides:
        return "command line"
    # The environment adds to what the file says: a key to a list, a directory to a table.
    return "environment" if place and place[0] in found and not _is_in(settings, place) else None


def _is_in(value: Any, place: Place) -> bool:
    try:
        for step in place:
            value = value[step]
    except (LookupError, TypeError):
        return False
    return True


def format_toml(config: Config) -> str:
    """The effective configuration as a file that `load` reads; settings without a value are left out."""
    settings = msgspec.to_builtins(config)
    return tomli_w.dumps(_without_none(settings))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    # `upstream` is a list of tables.
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def _read(file: Path, unknown: list[str]) -> dict[str, Any]:
    """The values in the file; names of no setting are added to `unknown`."""
    try:
        with file.open("rb") as stream:
            settings = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    return _flatten(settings, unknown)


def _flatten(settings: dict[str, Any], unknown: list[str]) -> dict[str, Any]:
    """Fold the sectioned form into plain keys, and leave out unknown ones."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in ("server", "store") and isinstance(value, dict):
            flat.update(_unfold(key, value, unknown))
        elif key not in KNOWN_KEYS:
            unknown.append(f"{key}: unknown key{suggest(key, KNOWN_KEYS)}")
        else:
            flat[key] = value
    if isinstance(flat.get("upstream"), dict):
        # The sectioned form knows one upstream, and whether it is wanted.
        upstream = dict(flat["upstream"])
        flat["upstream"] = [upstream] if upstream.pop("enabled", True) is not False else []
    for table, struct in _TABLES.items():
        _leave_out_unknown(table, flat.get(table), struct.__struct_encode_fields__, unknown)
    if isinstance(flat.get("caches"), dict):
        for name, value in flat["caches"].items():
            _leave_out_unknown(f"caches.{name}", value, Cache.__struct_encode_fields__, unknown)
    if isinstance(flat.get("oidc"), dict):
        for name, value in flat["oidc"].items():
            _leave_out_unknown(f"oidc.{name}", value, Oidc.__struct_encode_fields__, unknown)
            rules = value.get("rules") if isinstance(value, dict) else None
            _leave_out_unknown(f"oidc.{name}.rules", rules, OidcRule.__struct_encode_fields__, unknown)
    return flat


def _unfold(section: str, values: Mapping[str, Any], unknown: list[str]) -> Iterator[tuple[str, Any]]:
    """The settings for which the keys of a section stand."""
    for key, value in values.items():
        if (section, key) == ("store", "type"):
            if value != "local":
                unknown.append(f'{section}.{key}: only "local" is known')
        elif (name := _SECTIONS.get((section, key))) is None:
            inner_names = [inner for outer, inner in _SECTIONS if outer == section]
            unknown.append(f"{section}.{key}: unknown key{suggest(key, inner_names)}")
        else:
            yield name, value


def _leave_out_unknown(table: str, value: Any, known: tuple[str, ...], unknown: list[str]) -> None:
    tables = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict)]
    for one in tables:
        for key in [key for key in one if key not in known]:
            del one[key]
            unknown.append(f"{table}.{key}: unknown key{suggest(key, known)}")


def _from_environment(environment: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    keys = [*environment.get("SIGN_KEY_PATHS", "").split(), *environment.get("SIGN_KEY_PATH", "").split()]
    named = settings.get("sign_key_paths", [])
    # What is no list is refused later, with the name of the file.
    if keys and isinstance(named, list):
        found["sign_key_paths"] = [*named, *keys]
    if "NIX_STORE_DIR" in environment and "virtual_nix_store" not in settings:
        found["virtual_nix_store"] = environment["NIX_STORE_DIR"]
    if "NIX_DAEMON_SOCKET_PATH" in environment and "daemon_socket" not in settings:
        found["daemon_socket"] = environment["NIX_DAEMON_SOCKET_PATH"]
    if "state_directory" not in settings:
        found["state_directory"] = _directory(environment, "STATE", "/var/lib", ".local/state")
    kept = settings.get("cache", {})
    if isinstance(kept, dict) and "directory" not in kept:
        found["cache"] = {**kept, "directory": _directory(environment, "CACHE", "/var/cache", ".cache")}
    level = _rust_log(environment.get("RUST_LOG", ""))
    if level is not None and "log_level" not in settings:
        found["log_level"] = level
    return found


def _directory(environment: Mapping[str, str], kind: str, system: str, in_home: str) -> str:
    """What systemd gave us, or the place by custom: for root below `system`, for others as XDG says."""
    # systemd may list several directories, separated by colons; the first is ours.
    given = environment.get(f"{kind}_DIRECTORY")
    if given:
        return given.split(":")[0]
    if os.geteuid() == 0:
        return f"{system}/harmonia-py"
    base = environment.get(f"XDG_{kind}_HOME") or str(Path(environment.get("HOME", "/")) / in_home)
    return str(Path(base) / "harmonia-py")


def _rust_log(text: str) -> str | None:
    """The level in `RUST_LOG`, which may be `info`, `harmonia=debug` or a comma-separated list of both."""
    words = [part.rpartition("=")[2].strip().lower() for part in text.split(",")]
    return next((_LEVELS[word] for word in words if word in _LEVELS), None)
