"""The tables of `harmonia.toml`, each a typed value."""

import re
from ipaddress import ip_network
from math import ceil
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from harmonia_py.errors import FormatError
from harmonia_py.nix.signing import PublicKey

Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
NonNegative = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]

# Caches whose keys everybody knows need not have them named.
_KNOWN_KEYS: Final = {"cache.nixos.org": "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="}


class Zstd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """Harmonia's `[zstd]` table.

    Attributes:
        level: compression level.
        threads: that compress one large NAR, besides the one that reads and verifies it.
        long_distance_matching: find repetitions far apart, at the price of memory.
        window_log: base-2 logarithm of the window in bytes; unset leaves it to the level.
    """

    level: Annotated[int, msgspec.Meta(ge=-7, le=22)] = 3
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 1
    long_distance_matching: bool = False
    window_log: Annotated[int, msgspec.Meta(ge=10, le=31)] | None = None


class _Room(msgspec.Struct, frozen=True):
    """A directory and how much of it may be used; the tables that have one say what for."""

    directory: str | None = None
    max_size: int | str | None = None
    min_free: int | str = "2 GiB"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for key in ("max_size", "min_free"):
            value = getattr(self, key)
            if value is not None:
                parse_size(key, value)

    @property
    def max_bytes(self) -> int | None:
        """`max_size` as a number."""
        return None if self.max_size is None else parse_size("max_size", self.max_size)

    @property
    def min_free_bytes(self) -> int:
        """`min_free` as a number."""
        return parse_size("min_free", self.min_free)


class KeptNars(_Room, frozen=True, forbid_unknown_fields=True):
    """The `[cache]` table: compressed NARs, made once and kept.

    Attributes:
        directory: where; unset means `$CACHE_DIRECTORY`, else a place by custom.
        max_size: bytes they may take together, as a number or as "200 GiB"; unset means as many as `min_free` allows.
        min_free: bytes of the file system that stay free.
        jobs: how many NARs a worker compresses at once.
    """

    jobs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[limits]` table: what a client may take up, besides `max_connections`.

    Attributes:
        header_timeout: seconds for the header of a request, and for the beginning of TLS.
        request_timeout: seconds until an answer begins.
        min_rate: bytes a second that a client takes at least of a download, on the average of `rate_grace`; 0: none.
        rate_grace: seconds that are looked at together.
        requests_per_second: of each client address, over all workers; 0: as many as it likes.
        burst: requests at once; unset means those of ten seconds.
        trusted_proxies: addresses and networks whose `X-Forwarded-For` is believed, and `unix` for the Unix sockets.
    """

    header_timeout: Seconds = 20.0
    request_timeout: Seconds = 120.0
    min_rate: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 100_000
    rate_grace: Seconds = 30.0
    requests_per_second: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0
    burst: Positive | None = None
    trusted_proxies: list[str] = []

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for text in self.trusted_proxies:
            try:
                if text != "unix":
                    ip_network(text)
            except ValueError as error:
                raise ValueError(f'trusted_proxies: {error}; write an address, a network or "unix"') from None

    @property
    def requests_at_once(self) -> int:
        """`burst` as a number."""
        return self.burst or max(1, ceil(10 * self.requests_per_second))


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[policy]` table: which store paths are served.

    Attributes:
        serve: "everything", or only paths "signed" by one of `public_keys`, that were built here ("ultimate"),
            or that `roots` need.
        public_keys: one of which must have signed a path.
        roots: store paths, links to them such as profiles, and directories of such links.
    """

    serve: Literal["everything", "signed", "ultimate", "roots"] = "everything"
    public_keys: list[str] = []
    roots: list[str] = []

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for serve, key in (("signed", "public_keys"), ("roots", "roots")):
            if (self.serve == serve) != bool(getattr(self, key)):
                raise ValueError(f'{key}: goes with serve = "{serve}", and with nothing else')
        try:
            _ = self.keys
        except FormatError as error:
            raise ValueError(f"public_keys: {error}") from None
        for root in self.roots:
            if not root.startswith("/"):
                raise ValueError(f"roots: not an absolute path: {root!r}")

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """`public_keys` as values."""
        return tuple(PublicKey.parse(text) for text in self.public_keys)


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
        try:
            _ = self.keys
        except FormatError as error:
            raise ValueError(f"public_keys: {error}") from None

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


class Mirror(_Room, frozen=True, forbid_unknown_fields=True):
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
        import_: whether what is kept is added to the local store as well, where the nix-daemon trusts who signed it.
    """

    budget: Seconds = 2.0
    negative_ttl: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 30.0
    narinfo_ttl: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 86_400.0
    on_unknown: Literal["auto", "not-found", "error"] = "auto"
    offline: bool = False
    recompress: Literal["zstd", "none"] = "none"
    downloads: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 32
    import_: bool = msgspec.field(name="import", default=False)


_SIZE: Final = re.compile(r"([0-9]{1,18})[ ]?(?:([KMGTP])(?:i?B)?|B)?", re.ASCII)


def parse_size(key: str, value: int | str) -> int:
    """Bytes: a number, or one with K, M, G, T or P, which are powers of 1024 whether they have an `i` or not."""
    match = _SIZE.fullmatch(str(value))
    if match is None:
        raise ValueError(f'{key}: not a size: {value!r}; write bytes as a number, or "200 GiB"')
    exponent = " KMGTP".index(match[2]) if match[2] else 0
    return int(match[1]) << 10 * exponent
