"""The tables of `harmonia.toml` that say where things are kept, and how much of them, each a typed value."""

from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

from harmonia_py.config.bucket_url import BucketUrl, check_endpoint
from harmonia_py.config.units import parse_duration, parse_size


class Room(msgspec.Struct, frozen=True):
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


class KeptNars(Room, frozen=True, forbid_unknown_fields=True):
    """The `[cache]` table: compressed NARs, made once and kept.

    Attributes:
        directory: where; unset means `$CACHE_DIRECTORY`, else a place by custom.
        max_size: bytes they may take together, as a number or as "200 GiB"; unset means as many as `min_free` allows.
        min_free: bytes of the file system that stay free.
        jobs: how many NARs a worker compresses at once.
    """

    jobs: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[storage]` table: what is kept, all of it together: pushed, compressed, and mirrored.

    Attributes:
        max_size: bytes that all of it may take, as a number or as "500 GiB", chunks that files share counted once;
            unset means no limit beside those of the directories and of single caches. The longest unused goes first,
            wherever it is; what a pin keeps stays.
        min_free: bytes that stay free on each file system that something is kept on; unset means what the tables of the
            directories say, and nothing of what was pushed goes for it.
        scrub_every: in which time each kept file is read once more, to see whether it is still right, in seconds or as
            "30 days"; "never" for not at all.
        url: the bucket that files are kept in, `s3://bucket/prefix?endpoint=…&region=…`; unset means in directories.
        credentials_file: what signs requests to the bucket, a file as `~/.aws/credentials`; unset means that the
            environment says it: `AWS_ACCESS_KEY_ID` and its kin, a web identity, or the machine's own role.
        public_endpoint: the URL of the bucket's server as clients reach it: they are sent there for large files, with
            a signature that lasts for a while. Its host name is another than the cache's. Unset means never.
        public_url: where everybody may read the bucket, prefix included: clients of public caches are sent there.
        redirect_from: bytes of a file from which on clients are sent to the bucket, as a number or as "1 MiB"; "never"
            for no file.
        redirect_uploads_from: bytes of a file from which on clients that push it are sent to `public_endpoint`.
        keep_in_bucket: what is kept there: what is "pushed", or "everything": what is compressed and mirrored here as
            well, in a part of the bucket for each directory of `[cache]` and `[mirror]`.
        hot_max_size: bytes that copies of the bucket's files may take on this machine, as a number or as "50 GiB": what
            is read here is kept in front of the bucket, until it is the longest unused. Unset means no copies.
        hot_directory: where these are, in `.hot` there; unset means the directory of `[cache]`, whose `min_free`
            counts.
    """

    max_size: int | str | None = None
    min_free: int | str | None = None
    scrub_every: int | str = "30 days"
    url: str | None = None
    credentials_file: str | None = None
    public_endpoint: str | None = None
    public_url: str | None = None
    redirect_from: int | str = "1 MiB"
    redirect_uploads_from: int | str = "64 MiB"
    keep_in_bucket: Literal["pushed", "everything"] = "pushed"
    hot_max_size: int | str | None = None
    hot_directory: str | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _ = self.scrub_period, self.max_bytes, self.min_free_bytes, self.bucket
        _ = self.redirect_bytes, self.redirect_uploads_bytes, self.hot_max_bytes
        for key in ("public_endpoint", "public_url"):
            value = getattr(self, key)
            if value is not None:
                check_endpoint(key, value)
        for key in ("credentials_file", "public_endpoint", "public_url", "hot_max_size", "hot_directory"):
            if getattr(self, key) is not None and self.url is None:
                raise ValueError(f"{key}: goes with url, which is missing")
        if self.keep_in_bucket != "pushed" and self.url is None:
            raise ValueError("keep_in_bucket: goes with url, which is missing")
        if self.hot_directory is not None and self.hot_max_size is None:
            raise ValueError("hot_directory: goes with hot_max_size, which is missing")

    @property
    def bucket(self) -> BucketUrl | None:
        """`url` as a value."""
        return None if self.url is None else BucketUrl.parse(self.url)

    @property
    def redirect_bytes(self) -> int | None:
        """`redirect_from` as a number; None for never."""
        return self._bytes_or_never("redirect_from")

    @property
    def redirect_uploads_bytes(self) -> int | None:
        """`redirect_uploads_from` as a number; None for never."""
        return self._bytes_or_never("redirect_uploads_from")

    @property
    def hot_max_bytes(self) -> int | None:
        """`hot_max_size` as a number; None for no copies."""
        return None if self.hot_max_size is None else parse_size("hot_max_size", self.hot_max_size)

    def _bytes_or_never(self, key: str) -> int | None:
        value = getattr(self, key)
        return None if value == "never" else parse_size(key, value)

    @property
    def max_bytes(self) -> int | None:
        """`max_size` as a number."""
        return None if self.max_size is None else parse_size("max_size", self.max_size)

    @property
    def min_free_bytes(self) -> int:
        """`min_free` as a number; 0 when it is unset."""
        return 0 if self.min_free is None else parse_size("min_free", self.min_free)

    @property
    def scrub_period(self) -> int | None:
        """`scrub_every` as a number; None for never."""
        return None if self.scrub_every == "never" else parse_duration("scrub_every", self.scrub_every) or None


class Database(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[database]` table: where the catalog is of what is pushed, of caches and of tokens.

    Attributes:
        url: of a PostgreSQL database, `postgresql://user@host/name?…`, which several servers may share; unset means
            SQLite in `state_directory`. It has no password in it.
        password_file: a file with the password, of mode 0600; unset means that of `PGPASSWORD`, `PGPASSFILE` or
            `~/.pgpass`, or none.
        connections: with which a worker reads at once. One writes, one scans, one listens beside them.
    """

    url: str | None = None
    password_file: str | None = None
    connections: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2

    def __post_init__(self) -> None:
        """Check what types cannot say. No message shows the URL: there may be a password in it."""
        if self.url is None:
            if self.password_file is not None:
                raise ValueError("password_file: there is no url that it is for")
            return
        try:
            parts = urlsplit(self.url)
            has_password = parts.password is not None or "password" in parse_qs(parts.query)
        except ValueError as error:
            raise ValueError(f"url: not the URL of a database: {error}") from None
        if parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("url: not the URL of a PostgreSQL database; write postgresql://user@host/name")
        if has_password:
            raise ValueError("url: there is a password in it; put it into a file, and name that in password_file")
