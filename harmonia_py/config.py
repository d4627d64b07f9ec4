"""`harmonia.toml` and the environment, as one typed value.

The keys are Harmonia's, so that its users keep their file; the sectioned form that guides on the web show is folded
into the same settings. Nothing here opens a socket or a key: what a value means for the machine is checked by whoever
uses it.
"""

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import tomli_w

from harmonia_py.config_tables import KeptNars, Limits, Mirror, NonNegative, Policy, Positive, Seconds, Upstream, Zstd
from harmonia_py.errors import ConfigError, FormatError
from harmonia_py.nix.store_path import StoreDir

_log = logging.getLogger(__name__)

DEFAULT_FILE: Final = Path("settings.toml")

_MODE: Final = re.compile(r"0?[0-7]{3}", re.ASCII)

LogLevel = Literal["error", "warn", "info", "debug", "trace"]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting, with its default.

    Attributes:
        bind: where to listen, one address or several: `host:port`, `[::]:port`, `unix:/path`.
        workers: number of processes on the listening sockets.
        max_connections: open connections per worker; more wait in the kernel's queue.
        priority: what `/nix-cache-info` says; clients ask the cache with the smaller number first.
        want_mass_query: what `/nix-cache-info` says of queries for many paths at once.
        virtual_nix_store: the store directory that narinfos and signatures name.
        real_nix_store: where the files of the store are, when that is elsewhere.
        nix_db_path: `db.sqlite` of a store that has no daemon.
        nix_log_dir: where Nix keeps build logs; unset means beside the database.
        daemon_socket: where the nix-daemon listens.
        daemon_connections: connections to the nix-daemon, per worker.
        daemon_timeout: seconds the nix-daemon may take for one answer.
        sign_key_paths: files with secret keys; each signs every narinfo.
        sign_key_path: the same for one key. Deprecated.
        state_directory: where a generated key is kept.
        compression: how narinfos offer NARs: as kept zstd files, or as they are.
        enable_compression: a content coding, zstd or gzip, for clients that accept one: true for texts and for NARs
            that are not compressed, false for nothing; unset means texts, and such NARs unless narinfos offer them.
        zstd: parameters of compression.
        cache: where compressed NARs are kept, and how many.
        upstream: caches to ask for what the store does not have.
        mirror: how they are asked, and what is kept of them.
        tls_cert_path: certificate chain in PEM form.
        tls_key_path: its private key.
        unix_socket_mode: permissions of Unix sockets, in octal.
        unix_socket_group: the group they belong to.
        token_file: hashes of tokens, one of which a client needs; unset lets everybody read.
        limits: what a client may take up.
        policy: which store paths are served.
        worker_timeout: seconds after which a worker that does nothing at all is replaced.
        serve_files: whether `/serve` shows the files inside store paths.
        base_url: how clients reach this cache, for what is printed for people.
        log_level: the least severe messages to log.
        log_format: plain lines, or one JSON object a line.
        access_log: whether each request is logged, at level `info`.
        keepalive_timeout: seconds an idle connection is kept.
        stall_timeout: seconds a download may stand still before it is cut.
        shutdown_timeout: seconds that running transfers get to finish.
        max_connection_rate: accepted for Harmonia's sake; has no effect.
    """

    bind: str | list[str] = "[::]:5000"
    workers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 4
    max_connections: Positive = 2048
    priority: NonNegative = 30
    want_mass_query: bool = True
    virtual_nix_store: str = "/nix/store"
    real_nix_store: str | None = None
    nix_db_path: str | None = None
    nix_log_dir: str | None = None
    daemon_socket: str = "/nix/var/nix/daemon-socket/socket"
    daemon_connections: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    daemon_timeout: Seconds = 30.0
    sign_key_paths: list[str] = []
    sign_key_path: str | None = None
    state_directory: str | None = None
    compression: Literal["zstd", "none"] = "zstd"
    enable_compression: bool | None = None
    zstd: Zstd = Zstd()
    cache: KeptNars = KeptNars()
    upstream: list[Upstream] = []
    mirror: Mirror = Mirror()
    tls_cert_path: str | None = None
    tls_key_path: str | None = None
    unix_socket_mode: str = "0666"
    unix_socket_group: str | None = None
    token_file: str | None = None
    limits: Limits = Limits()
    policy: Policy = Policy()
    worker_timeout: Seconds = 30.0
    serve_files: bool = True
    base_url: str | None = None
    log_level: LogLevel = "info"
    log_format: Literal["text", "json"] = "text"
    access_log: bool = True
    keepalive_timeout: Seconds = 75.0
    stall_timeout: Seconds = 60.0
    shutdown_timeout: Seconds = 30.0
    max_connection_rate: Positive | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say. msgspec turns the ValueError into its own error."""
        for key in ("virtual_nix_store", "real_nix_store"):
            value = getattr(self, key)
            try:
                if value is not None:
                    StoreDir.parse(value)
            except FormatError as error:
                raise ValueError(f"{key}: {error}: {value!r}") from None
        if (self.tls_cert_path is None) != (self.tls_key_path is None):
            missing, given = (
                ("tls_key_path", "tls_cert_path") if self.tls_cert_path else ("tls_cert_path", "tls_key_path")
            )
            raise ValueError(f"{missing}: is missing; {given} needs it")
        if not self.addresses:
            raise ValueError("bind: names no address")
        if _MODE.fullmatch(self.unix_socket_mode) is None:
            raise ValueError(f'unix_socket_mode: not a mode in octal: {self.unix_socket_mode!r}; write "0660"')
        names = [upstream.label for upstream in self.upstream]
        if len(set(names)) < len(names):
            raise ValueError("upstream: two have the same name; say `name` for one of them")

    @property
    def addresses(self) -> list[str]:
        """`bind` as a list."""
        return [self.bind] if isinstance(self.bind, str) else self.bind

    @property
    def socket_mode(self) -> int:
        """`unix_socket_mode` as a number."""
        return int(self.unix_socket_mode, 8)

    @property
    def codes_nars(self) -> bool:
        """Whether NARs that are not compressed are coded for clients that accept it."""
        # Who offers NARs as they are has chosen, and a download that is coded cannot be resumed.
        return self.compression == "zstd" if self.enable_compression is None else self.enable_compression

    @property
    def store_dir(self) -> StoreDir:
        """The logical store directory."""
        return StoreDir(self.virtual_nix_store)

    @property
    def real_store(self) -> Path:
        """Where the files of the store are."""
        return Path(self.real_nix_store or self.virtual_nix_store)

    @property
    def database(self) -> Path:
        """`db.sqlite` of the store, by the layout Nix gives every store, unless it is named."""
        return Path(self.nix_db_path) if self.nix_db_path else self.real_store.parent / "var/nix/db/db.sqlite"

    @property
    def log_directory(self) -> Path:
        """Where build logs are."""
        return Path(self.nix_log_dir) if self.nix_log_dir else self.database.parent.parent.parent / "log/nix"

    @property
    def key_files(self) -> list[Path]:
        """Files with secret keys, in the order they were named."""
        return [Path(path) for path in [*self.sign_key_paths, *([self.sign_key_path] if self.sign_key_path else [])]]


KNOWN_KEYS: Final = Config.__struct_fields__
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
