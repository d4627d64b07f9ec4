"""The NAR in a kept file, held against its hashes and parsed before a local store sees its end."""

import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Executor
from typing import Final

from harmonia_py.cache.source import Download
from harmonia_py.contents.blobs import Blob
from harmonia_py.contents.encoders import encoder
from harmonia_py.contents.nar_check import NarCheck
from harmonia_py.contents.pieces import whole_portions
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.nar_parser import Parser
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.runtime.threads import in_thread

_BUFFER_BYTES: Final = 256 * 1024
# Python parses the NAR: a megabyte of small files takes long, and other threads wait for the interpreter meanwhile.
_PARSED_BYTES: Final = 32 * 1024


async def verified_nar(
    file: Blob | Download, info: PathInfo, compression: str, file_hash: Hash, file_size: int, *, threads: Executor
) -> AsyncGenerator[bytes, None]:
    """The NAR in a kept file. The last bytes come when all of it has proved right: before, it is no whole NAR.

    Raises:
        FormatError: it is not what was kept, or a NAR that is not to be had.
        StorageError: the file cannot be read.
    """
    check = NarCheck(info, compression, file_hash, file_size, encoder=encoder("none"))
    portions = _portions(file, check)
    while portion := await in_thread(threads, next, portions, b""):
        yield portion


def _portions(file: Blob | Download, check: NarCheck) -> Iterator[bytes]:
    parser = Parser()
    held = b""
    for data in whole_portions(file.pieces(0, None), _BUFFER_BYTES):
        for portion in check.portions(bytes(data)):
            for start in range(0, len(portion), _PARSED_BYTES):
                parser.feed(portion[start : start + _PARSED_BYTES])
                time.sleep(0)
            if held:
                yield held
            held = portion
    held += check.finish()
    parser.close()
    yield held
