"""A directory as releases without a catalog left it: files under their URLs' names, facts in their attributes.

Written here as those releases wrote: `blobs/<two digits>/<key>`, metadata as JSON in `user.harmonia` or a sidecar.
"""

import hashlib
import json
import os
from pathlib import Path

import xattr

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir, StorePath

WHOLE_MTIME_NS = 1_000_000_000


def put(directory: Path, key: str, data: bytes, metadata: dict[str, str], last_used: float) -> Path:
    """A whole blob."""
    path = directory / "blobs" / hashlib.blake2b(key.encode(), digest_size=1).hexdigest() / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    document = json.dumps({"size": len(data), "metadata": metadata}).encode()
    if len(document) > 2048:
        path.with_name(f".{path.name}.json").write_bytes(document)
    else:
        xattr.set(str(path), "user.harmonia", document)
    os.utime(path, ns=(int(last_used * 1e9), WHOLE_MTIME_NS))
    return path


def put_nar(directory: Path, info: PathInfo, compression: str, data: bytes, last_used: float, **more: str) -> str:
    """A kept NAR; returns its key."""
    url = NarUrl(info.store_path.hash_part, info.nar_hash, compression)
    key = str(url).removeprefix("nar/")
    metadata = {
        "store_path": str(info.store_path),
        "nar_hash": str(info.nar_hash),
        "nar_size": str(info.nar_size),
        "file_hash": str(Hash.of(data)),
        "file_size": str(len(data)),
    }
    put(directory, key, data, metadata | more, last_used)
    return key


def put_narinfo(directory: Path, narinfo: NarInfo, upstream: str, fetched: float, max_age: float) -> None:
    """What an upstream said, beside the NAR."""
    metadata = {
        "narinfo": narinfo.format(StoreDir("/nix/store")).decode(),
        "upstream": upstream,
        "fetched": str(fetched),
        "max_age": str(max_age),
    }
    put(directory, f"{narinfo.path_info.store_path.hash_part}.narinfo", b"", metadata, fetched)


def put_mismatch(directory: Path, key: str, store_path: StorePath, expected: Hash, actual: Hash | None) -> None:
    """The mark of a NAR that is not what the store says."""
    metadata = {
        "store_path": str(store_path),
        "expected": str(expected),
        "actual": str(actual or ""),
        "found": "1700000000.5",
    }
    put(directory, f"{key}.mismatch", b"", metadata, 1_700_000_000.0)
