"""Texts that clients push, perhaps compressed by settings such as `narinfo-compression` and `log-compression`."""

import hashlib
from collections.abc import AsyncIterator
from typing import Final

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.codecs import Unpacker
from harmonia_py.contents.spool import Spool
from harmonia_py.errors import FormatError, PushRefused, PushTooLarge
from harmonia_py.nix.hashes import Hash
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.receiving import passing_key
from harmonia_py.runtime.threads import in_thread

_CODINGS: Final = {None: "none", "": "none", "identity": "none", "br": "br", "gzip": "gzip", "xz": "xz", "zstd": "zstd"}


async def keep_text(
    ports: PushPorts, spool: Spool, key: BlobKey, portions: AsyncIterator[bytes], coding: str | None, *, max_size: int
) -> int:
    """Keep a long text under this key, decoded; returns the number of its bytes.

    Raises:
        FormatError: the text is not in this coding.
        PushRefused: the coding is not known.
        PushTooLarge: more than `max_size` bytes.
        StorageError: it cannot be kept.
    """
    decoder = _decoder_of(coding)
    writer = await spool.begin(passing_key(), 0)
    assert writer is not None
    size, digest = 0, hashlib.sha256()

    def take(portion: bytes) -> None:
        nonlocal size
        for data in decoder.feed(portion):
            size += len(data)
            if size > max_size:
                raise PushTooLarge(f"the text has more than {max_size} bytes")
            digest.update(data)
            writer.write(data)

    try:
        async for portion in portions:
            await in_thread(ports.threads, take, portion)
        if not decoder.is_whole:
            raise FormatError(f"the text ends too early for {coding}")
        metadata = {"file_hash": str(Hash("sha256", digest.digest()))}
        await ports.blobs.put(key, await in_thread(ports.threads, writer.finish), metadata, durable=True)
    finally:
        await in_thread(ports.threads, writer.close)
    return size


def decode(data: bytes, coding: str | None, max_size: int) -> bytes:
    """A short text without its coding.

    Raises:
        FormatError: it is not coded like that.
        PushRefused: the coding is not known.
        PushTooLarge: more than `max_size` bytes.
    """
    decoder, decoded = _decoder_of(coding), bytearray()
    for portion in decoder.feed(data):
        decoded += portion
        if len(decoded) > max_size:
            raise PushTooLarge(f"the text has more than {max_size} bytes")
    if not decoder.is_whole:
        raise FormatError(f"the text ends too early for {coding}")
    return bytes(decoded)


def _decoder_of(coding: str | None) -> Unpacker:
    """The decoder of a body with this `Content-Encoding`.

    Raises:
        PushRefused: a coding that is not known here.
    """
    compression = _CODINGS.get(coding)
    if compression is None:
        raise PushRefused("the Content-Encoding is not one of br, gzip, xz and zstd")
    return Unpacker(compression)
