"""The bodies of Attic's client, as values."""

import asyncio
from typing import Any, Literal, TypeVar

import msgspec
from aiohttp import web

from harmonia_py import json_text
from harmonia_py.errors import FormatError, naming
from harmonia_py.nix.content_address import parse_content_address
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import MAX_NAR_SIZE, PathInfo, sorted_references
from harmonia_py.nix.signing import Signature, parse_signatures
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.push.claims import MAX_SIGNATURES
from harmonia_py.web.attic.answers import bad_request
from harmonia_py.web.http import upload

T = TypeVar("T")


class GivenKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that the client brings: `<name>:<base 64 of the secret and the public half>`."""

    text: str = msgspec.field(name="Keypair")

    def __repr__(self) -> str:
        # A struct hides no field, and of a dataclass msgspec cannot forbid unknown ones.
        return "GivenKey(…)"


class Period(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds that an unused path stays; 0: for ever."""

    seconds: int = msgspec.field(name="Period")


class NewCache(msgspec.Struct, frozen=True):
    """`CreateCacheRequest`."""

    keypair: Literal["Generate"] | GivenKey
    is_public: bool
    store_dir: str
    priority: int
    upstream_cache_key_names: list[str]


class Changes(msgspec.Struct, frozen=True):
    """`CacheConfig` as it is sent: settings that are not given stay."""

    keypair: Literal["Generate"] | GivenKey | None = None
    is_public: bool | None = None
    store_dir: str | None = None
    priority: int | None = None
    upstream_cache_key_names: list[str] | None = None
    retention_period: Literal["Global"] | Period | None = None


class Question(msgspec.Struct, frozen=True):
    """`GetMissingPathsRequest`."""

    cache: str
    store_path_hashes: list[str]


class NarDescription(msgspec.Struct, frozen=True):
    """`UploadPathNarInfo`: the description of a NAR that follows. No cache keeps `system`."""

    cache: str
    store_path_hash: str
    store_path: str
    references: list[str]
    sigs: list[str]
    nar_hash: str
    nar_size: int
    deriver: str | None = None
    ca: str | None = None

    def path_info(self, store_dir: StoreDir) -> PathInfo:
        """The path info; every part of it parses, so no text in it can forge a line of a narinfo.

        Raises:
            FormatError: a part that does not, or parts that contradict each other.
        """
        store_path = _named("store_path", store_dir.parse_path, self.store_path)
        if _named("store_path_hash", HashPart.parse, self.store_path_hash) != store_path.hash_part:
            raise FormatError("store_path_hash: it is not that of the store path")
        if not 0 < self.nar_size <= MAX_NAR_SIZE:
            raise FormatError("nar_size: no NAR has this size")
        if len(self.sigs) > MAX_SIGNATURES:
            raise FormatError(f"sigs: there are more than {MAX_SIGNATURES} signatures")
        return PathInfo(
            store_path=store_path,
            nar_hash=_named("nar_hash", lambda text: Hash.parse(text, "sha256"), self.nar_hash),
            nar_size=self.nar_size,
            references=sorted_references(_named("references", StorePath.parse, text) for text in self.references),
            deriver=None if self.deriver is None else _named("deriver", _base_name(store_dir), self.deriver),
            signatures=_signatures(self.sigs),
            ca=None if not self.ca else _named("ca", parse_content_address, self.ca),
        )


def _signatures(texts: list[str]) -> tuple[Signature, ...]:
    """The well-formed signatures: a store may hold any word as one, and Nix skips those that it cannot read.

    Raises:
        FormatError: one has several lines or words, which no signature and no mistake has.
    """
    if not all(text.isprintable() and " " not in text for text in texts):
        raise FormatError("sigs: a signature is one word")
    return parse_signatures(texts)


def _base_name(store_dir: StoreDir) -> Any:
    return lambda text: StorePath.parse(text.removeprefix(f"{store_dir}/"))


def _named(field: str, parse: Any, text: str) -> Any:
    """`text` parsed.

    Raises:
        FormatError: with the name of the field.
    """
    with naming(field, FormatError):
        return parse(text)


async def read(request: web.Request, kind: type[T], most: int) -> T:
    """The body of a request.

    Raises:
        Refusal: it is not as it should be.
        PushTooLarge: it has more than `most` bytes.
    """
    return await asyncio.to_thread(decode, await upload.read(request, most), kind)


def decode(data: bytes, kind: type[T]) -> T:
    """JSON as a value.

    Raises:
        Refusal: it is not as it should be.
    """
    try:
        return json_text.decode(data, kind)
    except FormatError as error:
        raise bad_request(str(error)) from None
