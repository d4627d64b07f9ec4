"""The tables of `harmonia.toml` about other caches, each a typed value."""

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from harmonia_py.config.storage_tables import Room
from harmonia_py.config.units import NonNegative, Seconds, parse_duration
from harmonia_py.errors import naming
from harmonia_py.nix.signing import PublicKey

# Keys of caches that are known to every Nix need not be named.
_KNOWN_KEYS: Final = {"cache.nixos.org": "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="}


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[upstream]]` table: a cache to ask for what the store does not have.

    Attributes:
        url: of the cache.
        name: in logs, headers and figures; unset means the host.
        public_keys: whose signatures its narinfos must carry; known for cache.nixos.org.
        priority: a smaller number is asked first; those of the same at the same time.
        timeout: seconds that it has for a narinfo, within `mirror.budget`; unset means its share of that.
        connect_timeout: seconds until a connection stands.
        stall_timeout: seconds without a byte after which a download is resumed.
        netrc_file: a netrc with login and password for its host.
        token_file: a file with a bearer token.
        ca_file: the certificates, in PEM form, that vouch for its own.
        local_network: whether it is inside this network, and may lead to private addresses; unset means that its host
            tells: a private address, a name without dots, or one that ends in .local, .internal, .lan or .home.arpa.
    """

    url: str
    name: str | None = None
    public_keys: list[str] | None = None
    priority: NonNegative = 40
    timeout: Seconds | None = None
    connect_timeout: Seconds = 10.0
    stall_timeout: Seconds = 30.0
    netrc_file: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    local_network: bool | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        try:
            parts = urlsplit(self.url)
            host = parts.hostname
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"url: {error}: {self.url!r}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError(f"url: not the URL of a cache: {self.url!r}; write https://cache.example.org")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url: holds a password; write it into a file and name that as netrc_file")
        if parts.query or parts.fragment:
            raise ValueError(f"url: ends with the path of a cache: {self.url!r}")
        if self.public_keys is None and host not in _KNOWN_KEYS:
            raise ValueError(f"public_keys: is missing; without one nothing of {self.url} can be trusted")
        with naming("public_keys", ValueError):
            _ = self.keys

    @property
    def label(self) -> str:
        """`name`, or else the host and what tells it from others there."""
        parts = urlsplit(self.url)
        return self.name or f"{parts.netloc}{parts.path.rstrip('/')}"

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """`public_keys` as values."""
        texts = self.public_keys
        if texts is None:
            texts = [_KNOWN_KEYS[urlsplit(self.url).hostname or ""]]
        return tuple(PublicKey.parse(text) for text in texts)


class Mirror(Room, frozen=True, forbid_unknown_fields=True):
    """The `[mirror]` table: how upstreams are asked, and what is kept of them.

    Attributes:
        directory: where; unset means with the compressed NARs of the store, within the limits of `[cache]`.
        max_size: bytes that a directory of its own may take; unset means as many as `min_free` allows.
        min_free: bytes of its file system that stay free.
        budget: seconds that the question for one narinfo may take, over all upstreams together.
        negative_ttl: seconds that an absent path is not asked for again.
        narinfo_ttl: seconds that a narinfo is believed whose upstream does not say for how long.
        on_unknown: what a client is told when no upstream can tell: "not-found", "error", or "auto": an error while
            one may still answer, otherwise not found.
        offline: never ask an upstream: serve what is kept.
        recompress: re-code what is kept, in the background; "none" leaves it as the upstream had it.
        downloads: from upstreams, at once, per worker.
        deduplicate: "chunks": files that are kept as zstd become chunks that they share; "files": they stay files.
        deduplicate_after: how long a file is not asked for before it becomes chunks, in seconds or as "1 day".
        import_: whether what is kept is added to the local store as well, where the nix-daemon trusts who signed it.
    """

    budget: Seconds = 2.0
    negative_ttl: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 30.0
    narinfo_ttl: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 86_400.0
    on_unknown: Literal["auto", "not-found", "error"] = "auto"
    offline: bool = False
    recompress: Literal["zstd", "none"] = "none"
    downloads: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 32
    deduplicate: Literal["files", "chunks"] = "files"
    deduplicate_after: int | str = "1 day"
    import_: bool = msgspec.field(name="import", default=False)

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        super().__post_init__()
        _ = self.deduplicate_seconds

    @property
    def deduplicate_seconds(self) -> int:
        """`deduplicate_after` as a number."""
        return parse_duration("deduplicate_after", self.deduplicate_after)
