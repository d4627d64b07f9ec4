"""Every setting, as one typed value. What it means for the machine is checked by whoever uses it."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from harmonia_py.config_tables import KeptNars, Limits, Mirror, NonNegative, Policy, Positive, Seconds, Upstream, Zstd
from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import StoreDir

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
