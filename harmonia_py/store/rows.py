"""Rows of a store's database as values.

Source: `queryPathInfoInternal` in `src/libstore/local-store.cc` of Nix.
"""

from collections.abc import Iterable
from typing import Any

from harmonia_py.errors import FormatError
from harmonia_py.nix.content_address import parse_content_address
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import MAX_NAR_SIZE, PathInfo, sorted_references
from harmonia_py.nix.signing import parse_signatures
from harmonia_py.nix.store_path import StoreDir, StorePath

Row = tuple[Any, ...]


def path_info(path: StorePath, row: Row, references: Iterable[StorePath], store_dir: StoreDir) -> PathInfo:
    """The path info of `path` from `hash, registrationTime, deriver, narSize, ultimate, sigs, ca` of `ValidPaths`.

    Raises:
        FormatError: a column does not parse.
    """
    nar_hash, registration_time, deriver, nar_size, ultimate, signatures, ca = row
    return PathInfo(
        store_path=path,
        nar_hash=Hash.parse(text(nar_hash), "sha256"),
        nar_size=number(nar_size),
        references=sorted_references(references),
        deriver=store_dir.parse_path(text(deriver)) if deriver else None,
        signatures=parse_signatures(text(signatures or "").split()),
        ca=parse_content_address(text(ca)) if ca else None,
        registration_time=number(registration_time),
        ultimate=bool(number(ultimate)),
    )


def text(value: object) -> str:
    """A column of text.

    Raises:
        FormatError: it is something else.
    """
    if not isinstance(value, str):
        raise FormatError("a column is not text")
    return value


def number(value: object) -> int:
    """A column of a size or a time; NULL, which a store writes for a size it does not know, is 0.

    Raises:
        FormatError: it is something else.
    """
    if value is None:
        return 0
    if not isinstance(value, int) or not 0 <= value <= MAX_NAR_SIZE:
        raise FormatError("a column is not a natural number")
    return value
