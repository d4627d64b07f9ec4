"""`harmonia.toml` and the environment, read.

The keys are Harmonia's, so that its users keep their file; the sectioned form that guides on the web show is folded
into the same settings. Nothing here opens a socket or a key.
"""

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import tomli_w

from harmonia_py.config import KNOWN_KEYS, Config
from harmonia_py.config_tables import KeptNars, Limits, Mirror, Policy, Upstream, Zstd
from harmonia_py.errors import ConfigError

_log = logging.getLogger(__name__)

DEFAULT_FILE: Final = Path("settings.toml")

_TABLES: Final = {
    "zstd": Zstd,
    "cache": KeptNars,
    "limits": Limits,
    "policy": Policy,
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

_KEY: Final = re.compile(r"\w+")


def find_file(named: str | None, environment: Mapping[str, str]) -> Path | None:
    """The configuration file: the one named, `$CONFIG_FILE`, `./settings.toml` if it exists, or none.

    Raises:
        ConfigError: a file was named and is not there.
    """
    name = named or environment.get("CONFIG_FILE")
    if not name:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    return path


def load(file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any]) -> Config:
    """The configuration: defaults, then `file`, then the environment, then `overrides` from the command line.

    Raises:
        ConfigError: what is wrong, with the name of the file and of the key.
    """
    settings = _read(file) if file is not None else {}
    name = str(file) if file is not None else "configuration"
    found = _from_environment(environment, settings)
    try:
        config = msgspec.convert(settings | found | dict(overrides), Config)
    except msgspec.ValidationError as error:
        explanation = _explain(str(error))
        match = _KEY.match(explanation)
        if match is not None and match[0] in overrides:
            name = "command line"
        elif match is not None and match[0] in found:
            name = "environment"
        raise ConfigError(f"{name}: {explanation}") from None
    for key in ("sign_key_path", "max_connection_rate"):
        if getattr(config, key) is not None:
            reason = "use sign_key_paths" if key == "sign_key_path" else "it has no effect here"
            _log.warning("%s: %s: %s", name, key, reason)
    return config


def format_toml(config: Config) -> str:
    """The effective configuration as a file that `load` reads; settings without a value are left out."""
    settings = msgspec.to_builtins(config)
    return tomli_w.dumps(_without_none(settings))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    # `upstream` is a list of tables.
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            settings = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    return _flatten(file, settings)


def _flatten(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Fold the sectioned form into plain keys, and refuse unknown ones."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in ("server", "store") and isinstance(value, dict):
            for inner, setting in value.items():
                if (key, inner) == ("store", "type"):
                    if setting != "local":
                        raise ConfigError(f'{file}: {key}.{inner}: only "local" is known')
                    continue
                name = _SECTIONS.get((key, inner))
                if name is None:
                    raise ConfigError(f"{file}: {key}.{inner}: unknown key{_suggest(inner, _inner_names(key))}")
                flat[name] = setting
        elif key not in KNOWN_KEYS:
            raise ConfigError(f"{file}: {key}: unknown key{_suggest(key, KNOWN_KEYS)}")
        else:
            flat[key] = value
    if isinstance(flat.get("upstream"), dict):
        # The sectioned form knows one upstream, and whether it is wanted.
        upstream = dict(flat["upstream"])
        flat["upstream"] = [upstream] if upstream.pop("enabled", True) is not False else []
    for table, struct in _TABLES.items():
        _refuse_unknown(file, table, flat.get(table), struct.__struct_encode_fields__)
    return flat


def _refuse_unknown(file: Path, table: str, value: object, known: tuple[str, ...]) -> None:
    for one in value if isinstance(value, list) else [value]:
        unknown = [key for key in one if key not in known] if isinstance(one, dict) else []
        if unknown:
            raise ConfigError(f"{file}: {table}.{unknown[0]}: unknown key{_suggest(unknown[0], known)}")


def _inner_names(section: str) -> tuple[str, ...]:
    return tuple(inner for outer, inner in _SECTIONS if outer == section)


def _suggest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""


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


def _explain(message: str) -> str:
    """Msgspec's `what - at `$.key`` as `key: what`."""
    what, separator, place = message.partition(" - at `$")
    if not separator:
        return what
    return f"{place.removesuffix('`').lstrip('.') or 'configuration'}: {what[0].lower()}{what[1:]}"
