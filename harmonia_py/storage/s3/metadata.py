"""The metadata of a blob as what S3 calls user metadata: headers, of ASCII, of two kilobytes together.

What is longer is an object beside that of the blob, which names it by its hash: one that was replaced since is not
taken for the other.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from harmonia_py import json_text
from harmonia_py.errors import FormatError

# Amazon counts the names of the headers as well.
_MOST_BYTES: Final = 1500
_METADATA: Final = "harmonia"
_BESIDE: Final = "harmonia-beside"
_PUT: Final = "harmonia-put"

_TYPES: Final = {
    "nix-cache-info": "text/x-nix-cache-info",
    ".narinfo": "text/x-nix-narinfo",
    ".ls": "application/json",
    ".drv": "text/plain; charset=utf-8",
}
DEFAULT_TYPE: Final = "application/x-nix-nar"
# What Nix sends, and what servers say of an object whose type nothing was said of.
_PLAIN_TYPES: Final = frozenset({DEFAULT_TYPE, "application/octet-stream", "binary/octet-stream"})
_HARMLESS: Final = frozenset({"Content-Type", "Storage-Class"})


def attributes_of(key: str, metadata: Mapping[str, str], put: str) -> tuple[dict[str, str], bytes | None]:
    """The headers of an object, and what is put beside it first, if anything; `put` tells this upload from others."""
    text = json.dumps(dict(metadata), separators=(",", ":"))
    headers = {"Content-Type": _type_of(key), _PUT: put}
    if len(text) <= _MOST_BYTES:
        return {**headers, _METADATA: text}, None
    return {**headers, _BESIDE: hashlib.sha256(text.encode()).hexdigest()}, text.encode()


def is_of(attributes: Mapping[str, str], put: str) -> bool:
    """Whether an object is that of this upload."""
    return attributes.get(_PUT) == put


def is_beside(attributes: Mapping[str, str]) -> bool:
    """Whether the metadata are another object."""
    return _BESIDE in attributes


def parse(attributes: Mapping[str, str]) -> dict[str, str]:
    """The metadata; none for an object that another program has put there."""
    return _parse(attributes.get(_METADATA, "{}"))


def parse_beside(attributes: Mapping[str, str], data: bytes) -> dict[str, str] | None:
    """The metadata that are another object; None when that is of another upload."""
    return _parse(data) if hashlib.sha256(data).hexdigest() == attributes.get(_BESIDE) else None


def is_plain(attributes: Mapping[str, str]) -> bool:
    """Whether an object has no headers but those that any NAR may have: clients of all caches would get the others."""
    return set(attributes) <= _HARMLESS and attributes.get("Content-Type", DEFAULT_TYPE) in _PLAIN_TYPES


def _parse(text: str | bytes) -> dict[str, str]:
    try:
        found = json_text.decode(text)
    except FormatError:  # another program has put it there
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _type_of(key: str) -> str:
    return next((kind for end, kind in _TYPES.items() if key.endswith(end)), DEFAULT_TYPE)
