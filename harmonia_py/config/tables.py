"""The tables of `harmonia.toml` about serving and clients, each a typed value."""

from ipaddress import ip_network
from math import ceil
from typing import Annotated, Literal

import msgspec

from harmonia_py.config.units import Positive, Seconds
from harmonia_py.errors import naming
from harmonia_py.nix.signing import PublicKey


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


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[limits]` table: what a client may take up, besides `max_connections`.

    Attributes:
        connections_per_client: open connections of one address, or IPv6 /64 network, per worker. Proxies that are
            trusted, and Unix sockets, may have any number.
        header_timeout: seconds for the header of a request, and for the beginning of TLS.
        request_timeout: seconds until an answer begins.
        min_rate: bytes a second that a client takes at least of a download, on the average of `rate_grace`; 0: none.
        rate_grace: seconds that are looked at together.
        requests_per_second: of each client address, over all workers; 0: as many as it likes.
        burst: requests at once; unset means those of ten seconds.
        trusted_proxies: addresses and networks whose `X-Forwarded-For` is believed, and `unix` for the Unix sockets.
    """

    connections_per_client: Positive = 256
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


class Attic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[attic]` table: the API of Attic, for its client as it is, and the tokens that its `atticadm` makes.

    The key of the tokens is one of three, as base 64 in a file; where none is named, the environment variables of
    atticd count: `ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64` and its kin. Without any key, only tokens of this server are
    taken.

    Attributes:
        enabled: whether clients of Attic are answered.
        token_hs256_secret_file: a file with the secret of HS256.
        token_rs256_secret_file: a file with the private key of RS256, of which only the public half is used.
        token_rs256_public_key_file: a file with the public key of RS256.
        token_bound_issuer: the `iss` that a token must have; unset means any.
        token_bound_audiences: of which a token must be for one; none means that it is not looked at.
    """

    enabled: bool = False
    token_hs256_secret_file: str | None = None
    token_rs256_secret_file: str | None = None
    token_rs256_public_key_file: str | None = None
    token_bound_issuer: str | None = None
    token_bound_audiences: list[str] = []

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if len(self.key_files) > 1:
            raise ValueError("tokens are verified with one key: name one file")

    @property
    def key_files(self) -> dict[str, str]:
        """The files that are named, by what is in them: `hs256_secret`, `rs256_secret` or `rs256_public_key`."""
        files = {
            "hs256_secret": self.token_hs256_secret_file,
            "rs256_secret": self.token_rs256_secret_file,
            "rs256_public_key": self.token_rs256_public_key_file,
        }
        return {kind: file for kind, file in files.items() if file is not None}


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
        with naming("public_keys", ValueError):
            _ = self.keys
        for root in self.roots:
            if not root.startswith("/"):
                raise ValueError(f"roots: not an absolute path: {root!r}")

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """`public_keys` as values."""
        return tuple(PublicKey.parse(text) for text in self.public_keys)
