"""The narinfo: the path info of a store path, and the place of its NAR in a cache.

Source: `src/libstore/nar-info.cc` of Nix. Nix's parser takes a value from the second byte after the colon up to the
next line feed, so `References:` without its space, a blank line or a CRLF corrupt what follows: never emit one.
"""

import re
from typing import Any, Final, Self

from msgspec import Struct

from harmonia_py.errors import FormatError
from harmonia_py.nix.content_address import ContentAddress, Method, UnknownContentAddress, parse_content_address
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import MAX_NAR_SIZE, PathInfo, sorted_references
from harmonia_py.nix.signing import parse_signatures
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

# The names in `Compression:` and the file suffixes Nix gives them; others exist, without a suffix of their own.
SUFFIXES: Final = {
    "none": "",
    "xz": ".xz",
    "zstd": ".zst",
    "bzip2": ".bz2",
    "gzip": ".gz",
    "br": ".br",
    "lzip": ".lzip",
    "lz4": ".lz4",
}
COMPRESSIONS_BY_SUFFIX: Final = {suffix: name for name, suffix in SUFFIXES.items()}
_NIX32: Final = "[0-9abcdfghijklmnpqrsvwxyz]"
_NAR_FILE: Final = re.compile(
    rf"(?:({_NIX32}{{32}})(?:-({_NIX32}{{52}}))?|({_NIX32}{{52}}))\.nar(\.[0-9a-z]+)?", re.ASCII
)
_DECIMAL: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_COMPRESSION: Final = re.compile(r"[0-9A-Za-z+._\-]{1,32}", re.ASCII)
_FIELDS: Final = frozenset(
    ["StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver", "CA"]
)
# How Nix's JSON names the methods of content addressing.
_JSON_METHODS: Final = {Method.TEXT: "text", Method.FLAT: "flat", Method.NAR: "nar", Method.GIT: "git"}

# One line of references may be long: a system closure refers to thousands of paths. A whole narinfo never is.
MAX_NARINFO_SIZE: Final = 4 * 1024 * 1024
# Each cache that a path passes through may add one or two.
MAX_SIGNATURES: Final = 256


class NarUrl(Struct, frozen=True):
    """The URL of a NAR, relative to that of this cache. Clients remember it for 30 days.

    Attributes:
        hash_part: of the store path whose NAR it is.
        nar_hash: SHA-256 of the uncompressed NAR, when the URL pins it.
        compression: a key of `SUFFIXES`.
    """

    hash_part: HashPart
    nar_hash: Hash | None
    compression: str

    @classmethod
    def parse(cls, file_name: str, hash_query: str | None = None) -> Self:
        """Read what follows `nar/`, and the value of `hash` in the query.

        `<NarHash>.nar?hash=<hash part>`, `<hash part>-<NarHash>.nar[.zst …]` and `<hash part>.nar` are known.

        Raises:
            FormatError: any other shape.
        """
        match = _NAR_FILE.fullmatch(file_name)
        if match is None:
            raise FormatError("not the URL of a NAR")
        hash_part, second_hash, first_hash, suffix = match.groups()
        compression = COMPRESSIONS_BY_SUFFIX.get(suffix or "")
        if compression is None:
            raise FormatError("unknown compression suffix")
        if hash_part is None:
            if hash_query is None:
                raise FormatError("the URL of a NAR says which store path it belongs to")
            hash_part = HashPart.parse(hash_query)
        nar_hash = first_hash or second_hash
        return cls(HashPart(hash_part), Hash.parse(nar_hash, "sha256") if nar_hash else None, compression)

    def __str__(self) -> str:
        if self.nar_hash is None:
            return f"nar/{self.hash_part}.nar{SUFFIXES[self.compression]}"
        if self.compression == "none":
            return f"nar/{self.nar_hash.nix32}.nar?hash={self.hash_part}"
        return f"nar/{self.hash_part}-{self.nar_hash.nix32}.nar{SUFFIXES[self.compression]}"


class NarInfo(Struct, frozen=True, kw_only=True):
    """A path info and the place of its NAR.

    Attributes:
        path_info: which is signed.
        url: relative to the cache, as `str(NarUrl)`; an upstream's may be absolute.
        compression: of the file at `url`.
        file_hash: hash of that file, when it is known.
        file_size: its length in bytes, when it is known.
    """

    path_info: PathInfo
    url: str
    compression: str
    file_hash: Hash | None = None
    file_size: int | None = None

    def format(self, store_dir: StoreDir) -> bytes:
        """The text form, fields in Nix's order, with a line feed at the end of every line."""
        info = self.path_info
        lines = [
            f"StorePath: {store_dir.join(info.store_path)}",
            f"URL: {self.url}",
            f"Compression: {self.compression}",
        ]
        if self.file_hash is not None:
            lines.append(f"FileHash: {self.file_hash}")
        if self.file_size is not None:
            lines.append(f"FileSize: {self.file_size}")
        lines += [
            f"NarHash: {info.nar_hash}",
            f"NarSize: {info.nar_size}",
            f"References: {' '.join(info.references)}",
        ]
        if info.deriver is not None:
            lines.append(f"Deriver: {info.deriver}")
        lines += [f"Sig: {signature}" for signature in info.signatures]
        if info.ca is not None:
            lines.append(f"CA: {info.ca}")
        lines.append("")
        return "\n".join(lines).encode()

    def to_json(self, store_dir: StoreDir) -> dict[str, Any]:
        """The JSON of "Store Object Info v3" in the Nix manual, with the base name as `storePath` beside it.

        `downloadHash` and `downloadSize` are there when they are known; a `ca` of an unknown kind is its text.
        """
        info = self.path_info
        value: dict[str, Any] = {
            "version": 3,
            "storeDir": str(store_dir),
            "storePath": str(info.store_path),
            "narHash": info.nar_hash.sri,
            "narSize": info.nar_size,
            "references": [str(reference) for reference in info.references],
            "ca": _json_address(info.ca),
            "deriver": None if info.deriver is None else str(info.deriver),
            "registrationTime": info.registration_time or None,
            "ultimate": info.ultimate,
            "signatures": [signature.to_json() for signature in info.signatures],
            "url": self.url,
            "compression": self.compression,
        }
        if self.file_hash is not None:
            value["downloadHash"] = self.file_hash.sri
        if self.file_size is not None:
            value["downloadSize"] = self.file_size
        return value

    @classmethod
    def parse(cls, data: bytes, store_dir: StoreDir) -> Self:
        """Read the text form as Nix does, unknown fields ignored and malformed signatures dropped.

        Raises:
            FormatError: a field that is missing, stands twice, or does not parse; another store directory.
        """
        fields, signatures = _fields(data)
        try:
            path_info = PathInfo(
                store_path=store_dir.parse_path(fields["StorePath"]),
                nar_hash=_sha256(fields["NarHash"]),
                nar_size=_size(fields["NarSize"], minimum=1),
                references=_references(fields.get("References", "")),
                deriver=_deriver(fields.get("Deriver")),
                signatures=parse_signatures(signatures),
                ca=parse_content_address(fields["CA"]) if fields.get("CA") else None,
            )
            return cls(
                path_info=path_info,
                url=_url(fields["URL"]),
                compression=_compression(fields.get("Compression") or "bzip2"),
                file_hash=Hash.parse(fields["FileHash"]) if "FileHash" in fields else None,
                file_size=_size(fields["FileSize"]) if "FileSize" in fields else None,
            )
        except KeyError as error:
            raise FormatError(f"the narinfo has no field {error.args[0]}") from None


def _json_address(ca: ContentAddress | UnknownContentAddress | None) -> dict[str, str] | str | None:
    if isinstance(ca, ContentAddress):
        return {"hash": ca.hash.sri, "method": _JSON_METHODS[ca.method]}
    # Of an unknown kind there is only the text; null would say that the path has none.
    return None if ca is None else str(ca)


def _fields(data: bytes) -> tuple[dict[str, str], list[str]]:
    if len(data) > MAX_NARINFO_SIZE:
        raise FormatError("the narinfo is too long")
    if not data.endswith(b"\n"):
        raise FormatError("the narinfo does not end with a line feed")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise FormatError("the narinfo is not UTF-8") from None
    fields: dict[str, str] = {}
    signatures = []
    for line in text[:-1].split("\n"):
        name, _, value = line.partition(":")
        if not value.startswith(" ") or value.endswith("\r"):
            raise FormatError("a line of the narinfo has no field")
        if name == "Sig":
            signatures.append(value[1:])
            if len(signatures) > MAX_SIGNATURES:
                raise FormatError(f"the narinfo has more than {MAX_SIGNATURES} signatures")
        elif name in fields:
            raise FormatError(f"the narinfo has the field {name} twice")
        elif name in _FIELDS:
            fields[name] = value[1:]
    return fields, signatures


def _sha256(text: str) -> Hash:
    hash_ = Hash.parse(text)
    if hash_.algorithm != "sha256":
        raise FormatError("a NarHash is a sha256 hash")
    return hash_


def _size(text: str, minimum: int = 0) -> int:
    if _DECIMAL.fullmatch(text) is None or not minimum <= int(text) <= MAX_NAR_SIZE:
        raise FormatError("the narinfo has a size that is none")
    return int(text)


def _compression(text: str) -> str:
    # A name this table does not know may be one that a later Nix does.
    if _COMPRESSION.fullmatch(text) is None:
        raise FormatError("the narinfo has a malformed compression")
    return text


def _url(text: str) -> str:
    if not text or not text.isprintable() or " " in text:
        raise FormatError("the narinfo has a malformed URL")
    return text


def _references(text: str) -> tuple[StorePath, ...]:
    return sorted_references(StorePath.parse(reference) for reference in text.split(" ") if reference)


def _deriver(text: str | None) -> StorePath | None:
    return None if text is None or text == "unknown-deriver" else StorePath.parse(text)
