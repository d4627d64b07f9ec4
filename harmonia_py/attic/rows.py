"""Rows of Attic's database, as values.

Source: `server/src/database/entity` of Attic at b7c9056. What its server took from clients it did not look at, so every
text is parsed before it is used.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, Self

from msgspec import Struct

from harmonia_py.errors import FormatError
from harmonia_py.nix.content_address import parse_content_address
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo, sorted_references
from harmonia_py.nix.signing import SecretKey, parse_signatures
from harmonia_py.nix.store_path import StoreDir, StorePath

# `<uuid>.chunk`, or `<uuid>.nar` of releases before there were chunks.
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
_COMPRESSIONS: Final = {"none": "none", "zstd": "zstd", "xz": "xz", "br": "br", "brotli": "br"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AtticCache:
    """A cache that was not deleted.

    Attributes:
        id: stands for it in other rows.
        name: as its URL has it.
        keypair: signs what it serves, in the form of a secret key of Nix.
        public: whether reading takes no token.
        store_dir: of its paths.
        priority: of its `nix-cache-info`.
        upstream_key_names: whose paths its clients left out.
        retention_seconds: seconds that unused paths stay; None: the default of the server, 0: for ever.
    """

    id: int
    name: str
    keypair: str = field(repr=False)
    public: bool
    store_dir: str
    priority: int
    upstream_key_names: tuple[str, ...]
    retention_seconds: int | None

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Self:
        """A row of the query `_CACHES` of `attic/catalog.py`.

        Raises:
            FormatError: it has something else in it.
        """
        number, name, keypair, public, store_dir, priority, names, retention = row
        return cls(
            id=int(number),
            name=str(name),
            keypair=str(keypair),
            public=bool(public),
            store_dir=str(store_dir),
            priority=int(priority),
            upstream_key_names=_texts(names),
            retention_seconds=None if retention is None else max(0, int(retention)),
        )

    @property
    def key(self) -> SecretKey:
        """`keypair` as a value.

        Raises:
            FormatError: it is none.
        """
        return SecretKey.parse(self.keypair)


class AtticObject(Struct, frozen=True):
    """A path in a cache: a row of the query `_OBJECTS` of `attic/catalog.py`.

    Attributes:
        id: of its row; pages go by it.
        nar_id: of its NAR, whose state is `nar_state`: V for one that is whole.
        store_path, references, sigs, deriver, ca: as a client has sent them.
        nar_hash, nar_size: of the NAR.
        num_chunks: of which the NAR is made.
    """

    id: int
    nar_id: int
    store_path: str
    references: str
    deriver: str | None
    sigs: str
    ca: str | None
    nar_state: str
    nar_hash: str
    nar_size: int
    num_chunks: int

    @property
    def is_whole(self) -> bool:
        """Whether the server of Attic would give out its NAR."""
        return self.nar_state == "V"

    def path_info(self, store_dir: StoreDir) -> PathInfo:
        """The path info. Signatures that do not parse are left out: Attic never looked at them.

        Raises:
            FormatError: something of it does not parse.
        """
        deriver = self.deriver.removeprefix(f"{store_dir}/") if self.deriver else None
        return PathInfo(
            store_path=store_dir.parse_path(self.store_path),
            nar_hash=Hash.parse(self.nar_hash, "sha256"),
            nar_size=self.nar_size,
            references=sorted_references(map(StorePath.parse, _texts(self.references))),
            deriver=None if deriver is None else StorePath.parse(deriver),
            signatures=parse_signatures(_texts(self.sigs)),
            ca=parse_content_address(self.ca) if self.ca else None,
        )


class BucketFile(Struct, frozen=True):
    """A file in a bucket."""

    region: str
    bucket: str
    key: str


class AtticChunk(Struct, frozen=True):
    """A part of a NAR, compressed by itself, in a file below the directory of a server, or in a bucket."""

    compression: str
    file: str | BucketFile

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Self:
        """A row of the query `_CHUNKS` of `attic/catalog.py`.

        Raises:
            FormatError: the chunk is lost, or somewhere else.
        """
        _, compression, remote_file = row
        if remote_file is None:
            raise FormatError("a chunk of its NAR is lost")
        known = _COMPRESSIONS.get(str(compression))
        if known is None:
            raise FormatError(f"a chunk of its NAR is compressed with {compression}")
        return cls(known, _file(str(remote_file)))


def _file(text: str) -> str | BucketFile:
    try:
        ((kind, place),) = json.loads(text).items()
        if kind == "Local" and _FILE_NAME.fullmatch(place["name"]) is not None:
            return str(place["name"])
        if kind == "S3":
            return BucketFile(str(place["region"]), str(place["bucket"]), str(place["key"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise FormatError("a chunk of its NAR is neither in a directory nor in a bucket")


def _texts(text: Any) -> tuple[str, ...]:
    """A list of texts, as JSON has it."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        raise FormatError("not a list in JSON") from None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise FormatError("not a list of texts")
    return tuple(found)
