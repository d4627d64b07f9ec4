"""The answer of one upstream for a path, and whether it would be believed, in plain words."""

import asyncio
from typing import Final

from msgspec import Struct

from harmonia_py.cache.trust import rests_on_contents, signed_by
from harmonia_py.errors import FormatError, UpstreamError
from harmonia_py.mirror.trusted import MAX_NARINFO_BYTES, doubt
from harmonia_py.mirror.upstream import Upstream, read_document
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import HashPart, StoreDir

_SECONDS: Final = 30.0


class Verdict(Struct, frozen=True):
    """The verdict on one upstream.

    Attributes:
        upstream: its name.
        words: its answer, and why that would or would not be served.
        good: whether it would be served.
    """

    upstream: str
    words: str
    good: bool


async def explain_upstream(upstream: Upstream, hash_part: HashPart, store_dir: StoreDir) -> Verdict:
    """Ask, and look at the answer as the mirror does."""
    try:
        async with asyncio.timeout(_SECONDS):
            body = await upstream.open(f"{hash_part}.narinfo")
            if body is None:
                return Verdict(upstream.name, "says that it does not have it", good=False)
            with body:
                data = await read_document(body, MAX_NARINFO_BYTES)
    except (UpstreamError, TimeoutError) as error:
        return Verdict(upstream.name, f"cannot tell: {error or 'no answer in time'}", good=False)
    return _judge(upstream, data, hash_part, store_dir)


def _judge(upstream: Upstream, data: bytes, hash_part: HashPart, store_dir: StoreDir) -> Verdict:
    trusted = ", ".join(key.name for key in upstream.public_keys) or "none"
    try:
        narinfo = NarInfo.parse(data, store_dir)
    except FormatError as error:
        words = f"its narinfo is of no use: {error} (the store directory is {store_dir})"
        return Verdict(upstream.name, words, good=False)
    info = narinfo.path_info
    if info.store_path.hash_part != hash_part:
        return Verdict(upstream.name, f"its narinfo is that of another path, {info.store_path}", good=False)
    reason = doubt(narinfo, upstream.public_keys, store_dir)
    if reason is not None:
        return Verdict(upstream.name, f"has {info.store_path}, but {reason}", good=False)
    key = signed_by(info.fingerprint(store_dir), info.signatures, upstream.public_keys)
    proof = f"signed by {key}" if key is not None else f"proved by its content address {info.ca}"
    if key is None and rests_on_contents(info, store_dir):
        proof += ", against which its NAR is held when it comes"
    words = f"has {info.store_path} as {narinfo.compression}, {proof} (trusted keys: {trusted})"
    return Verdict(upstream.name, words, good=True)
