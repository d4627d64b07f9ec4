"""Every setting, as one typed value. What it means for the machine is checked where it is used."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from harmonia_py.cache.cache_name import DEFAULT
from harmonia_py.config.cache_table import Cache, check_caches
from harmonia_py.config.oidc_table import Oidc, check_oidc
from harmonia_py.config.storage_tables import Database, KeptNars, Storage
from harmonia_py.config.tables import Attic, Limits, Policy, Zstd
from harmonia_py.config.units import NonNegative, Positive, Seconds
from harmonia_py.config.upstream_tables import Mirror, Upstream
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
        sign: whether narinfos are signed: by the keys of `sign_key_paths`; where that names none, by a key that is made
            at the first start.
        sign_key_paths: files with secret keys; each signs every narinfo.
        sign_key_path: a file with one more secret key. Deprecated.
        state_directory: where the key that is made at the first start, and the catalog of caches and tokens, are kept.
        key_encryption_file: a file with the key, 32 bytes in base 64, under which the signing keys of other caches are
            encrypted in the catalog; unset means that they are kept there as they are.
        compression: how narinfos offer NARs: as kept zstd files, or as they are.
        enable_compression: a content coding, zstd or gzip, for clients that accept one: true for texts and for NARs
            that are not compressed, false for nothing; unset means texts, and such NARs unless narinfos offer them.
        zstd: parameters of compression.
        cache: where compressed NARs are kept, and how many.
        storage: how what is kept is looked after, wherever it came from.
        database: where the catalog is, when it is not in `state_directory`.
        upstream: caches to ask for what the store does not have.
        mirror: how they are asked, and what is kept of them.
        caches: other caches, each at `/NAME/`; `default` lets the cache at `/` take pushes.
        tls_cert_path: certificate chain in PEM form.
        tls_key_path: its private key.
        unix_socket_mode: permissions of Unix sockets, in octal.
        unix_socket_group: the group they belong to.
        token_file: hashes of tokens, one of which a client needs; unset means that reading takes none.
        limits: what a client may take up.
        oidc: issuers of identities, such as a CI service, whose tokens are taken as they are.
        policy: which store paths are served.
        worker_timeout: seconds after which a worker that does nothing at all is replaced.
        serve_files: whether `/serve` shows the files inside store paths.
        base_url: how clients reach this cache, for what is printed for people.
        log_level: the least severe messages to log.
        log_format: plain lines, with the time where the journal does not note it, or one JSON object a line.
        access_log: whether each request is logged, at level `info`.
        keepalive_timeout: seconds an idle connection is kept.
        stall_timeout: seconds a download, or the body of a push, may stand still before it is cut.
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
    sign: bool = True
    sign_key_paths: list[str] = []
    sign_key_path: str | None = None
    state_directory: str | None = None
    key_encryption_file: str | None = None
    compression: Literal["zstd", "none"] = "zstd"
    enable_compression: bool | None = None
    zstd: Zstd = Zstd()
    cache: KeptNars = KeptNars()
    storage: Storage = Storage()
    database: Database = Database()
    upstream: list[Upstream] = []
    mirror: Mirror = Mirror()
    caches: dict[str, Cache] = {}
    tls_cert_path: str | None = None
    tls_key_path: str | None = None
    unix_socket_mode: str = "0666"
    unix_socket_group: str | None = None
    token_file: str | None = None
    limits: Limits = Limits()
    attic: Attic = Attic()
    oidc: dict[str, Oidc] = {}
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
        if self.key_files and not self.sign:
            raise ValueError("sign: is false, and sign_key_paths names keys; take out one of the two")
        if not self.addresses:
            raise ValueError("bind: names no address")
        if _MODE.fullmatch(self.unix_socket_mode) is None:
            raise ValueError(f'unix_socket_mode: not a mode in octal: {self.unix_socket_mode!r}; write "0660"')
        names = [upstream.label for upstream in self.upstream]
        if len(set(names)) < len(names):
            raise ValueError("upstream: two have the same name; say `name` for one of them")
        check_caches(self.caches, names, default_is_public=self.is_public)
        self._check_default_cache()
        check_oidc(self.oidc)
        if self.base_url is not None:
            _check_base_url(self.base_url)
        # Last: of what is missing nothing can be taken away, to look at the rest.
        if (self.tls_cert_path is None) != (self.tls_key_path is None):
            missing, given = (
                ("tls_key_path", "tls_cert_path") if self.tls_cert_path else ("tls_cert_path", "tls_key_path")
            )
            raise ValueError(f"{missing}: is missing; {given} needs it")

    def _check_default_cache(self) -> None:
        table = self.default_cache
        if table is None:
            return
        if table.public and self.token_file is not None:
            raise ValueError("caches: default: public: is true, and token_file lets in only who has a token of it")
        if self.policy.serve in ("ultimate", "roots"):
            raise ValueError(
                f'policy: serve = "{self.policy.serve}" gives out nothing that is pushed, and [caches.default] takes '
                "pushes; take out one of the two"
            )
        if table.caches and self.policy.serve != "everything":
            raise ValueError("caches: default: caches: policy.serve leaves out what the cache at / has from elsewhere")
        if self.policy.serve == "signed" and table.signed_by:
            raise ValueError("caches: default: signed_by: the keys of policy.public_keys count; leave it out")
        if table.into == "store" and self.database.url is not None:
            raise ValueError(
                'caches: default: into: "store" is that of one machine, and with database.url several share what waits '
                "for it; take out one of the two"
            )

    @property
    def default_cache(self) -> Cache | None:
        """The table that lets the cache at `/` take pushes; None where it takes none."""
        return self.caches.get(DEFAULT)

    @property
    def is_public(self) -> bool:
        """Whether reading the cache at `/` takes no token."""
        table = self.default_cache
        return self.token_file is None if table is None or table.public is None else table.public

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
        # Offering NARs as they are is a choice, and a download that is coded cannot be resumed.
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
    def nix_database(self) -> Path:
        """`db.sqlite` of the store, by the layout Nix gives every store, unless it is named."""
        return Path(self.nix_db_path) if self.nix_db_path else self.real_store.parent / "var/nix/db/db.sqlite"

    @property
    def log_directory(self) -> Path:
        """Where build logs are."""
        return Path(self.nix_log_dir) if self.nix_log_dir else self.nix_database.parent.parent.parent / "log/nix"

    @property
    def key_files(self) -> list[Path]:
        """Files with secret keys that were named, in that order."""
        return [Path(path) for path in [*self.sign_key_paths, *([self.sign_key_path] if self.sign_key_path else [])]]

    @property
    def generated_key_file(self) -> Path | None:
        """The file of the key that is made at the first start; None where keys are named, or nothing is signed."""
        if self.key_files or not self.sign:
            return None
        return Path(self.state_directory or ".") / "secret-key"


def _check_base_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"base_url: not the URL of a cache: {url!r}; write https://cache.example.org")


KNOWN_KEYS: Final = Config.__struct_fields__
