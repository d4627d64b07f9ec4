"""Store paths from the command line: named in full, by base name, by hash part, by a link, or in a file."""

import lzma
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from harmonia_py.errors import ConfigError, FormatError, describe_os_error
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

# `store-paths.xz` of a channel is some megabytes; a file of another kind may decompress without end.
_MAX_LIST_BYTES: Final = 256 * 1024 * 1024


def parse_store_path(text: str, store_dir: StoreDir | None) -> StorePath:
    """A store path from its base name, its full path, something inside it, or a link to it such as `./result`.

    Args:
        text: the argument.
        store_dir: that it must be in; None for any store directory.

    Raises:
        FormatError: it is none, and leads to none.
    """
    if "/" not in text:
        with suppress(FormatError):
            return StorePath.parse(text)
    for find in (str, os.path.realpath):  # links are followed only where the text leads nowhere
        for name in _candidates(find(text), store_dir):
            with suppress(FormatError):
                return StorePath.parse(name)
    raise FormatError(f"{text}: is not, and does not lead to, a path in {store_dir or 'a store'}")


def parse_hash_part(text: str, store_dir: StoreDir | None) -> HashPart:
    """The hash part that `text` is, or that of the store path that it is or leads to.

    Raises:
        FormatError: it is none, and leads to none.
    """
    with suppress(FormatError):
        return HashPart.parse(text)
    return parse_store_path(text, store_dir).hash_part


def parse_url(text: str, base_url: str | None) -> tuple[str | None, HashPart]:
    """The cache and the hash part in a URL of a narinfo, a listing or a NAR, also of one below a push URL.

    Args:
        text: the URL.
        base_url: the URL of the cache at `/`; None for the top of whichever host.

    Returns:
        The name of the cache, None for the one at `/`, and the hash part.

    Raises:
        FormatError: a URL of something else.
    """
    parts = urlsplit(text)
    path = parts.path.removeprefix(urlsplit(base_url or "").path.rstrip("/"))
    *before, last = path.strip("/").split("/")
    if before[-1:] == ["nar"]:
        before.pop()
        hash_part = NarUrl.parse(last, dict(parse_qsl(parts.query)).get("hash")).hash_part
    else:
        stem, _, suffix = last.partition(".")
        if suffix not in ("narinfo", "ls"):
            raise FormatError(f"{text}: not the URL of a narinfo, a listing or a NAR")
        hash_part = HashPart.parse(stem)
    names = before[: before.index("push")] if "push" in before else before
    if len(names) > 1:
        raise FormatError(f"{text}: not a URL of a cache; base_url says where this one is")
    return (names[0] if names else None), hash_part


def read_hash_parts(file: Path, store_dir: StoreDir) -> set[HashPart]:
    """The hash parts of the paths in a file with one a line, as it is or packed with xz.

    Raises:
        ConfigError: the file cannot be read, or is no such list.
        FormatError: a line leads to no store path.
    """
    try:
        with lzma.open(file) if file.suffix == ".xz" else file.open("rb") as stream:
            data = stream.read(_MAX_LIST_BYTES)
    except OSError as error:
        raise ConfigError(describe_os_error(error)) from None
    except (lzma.LZMAError, EOFError) as error:
        raise ConfigError(f"{file}: not packed with xz: {error}") from None
    try:
        return {parse_hash_part(line, store_dir) for line in data.decode().splitlines() if line}
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a list of store paths") from None


def _candidates(path: str, store_dir: StoreDir | None) -> Iterator[str]:
    """The components of `path` that may be a store path: the one below `store_dir`, or any."""
    if store_dir is None:
        yield from path.split("/")
    elif path.startswith(f"{store_dir}/"):
        yield path.removeprefix(f"{store_dir}/").partition("/")[0]
