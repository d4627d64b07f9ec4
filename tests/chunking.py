"""What the job does that makes chunks, step by step, on a server of `house.py`."""

from house import House
from pushed_paths import PATH, REFERENCE, pushed
from pushing import TEAM
from rebuilds import contents_of
from trees import File, Folder, Tree
from zstd_library import zstd

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.chunks.work import Packed
from harmonia_py.nix.store_path import StorePath

OTHER = StorePath("6qv4vv5c4s9nlw2m5p0brzz0pmi1p3jw-hello-2.12.1")


async def make_chunks(house: House, name: CacheName = TEAM) -> Packed:
    """What the job does, at once and with everything."""
    node, catalog = house.server.node, house.server.catalog
    row = await catalog.caches.find(name)
    assert row is not None
    packer = node.chunking.packer(node.open_blob)
    try:
        for file in (await catalog.chunks.due(row.id, [row.id], Timestamp(2**40), None, 1000)).files:
            await packer.pack(file)
        return await packer.flush()
    finally:
        await packer.close()


def program(own: StorePath, size: int = 700_000, seed: int = 1) -> Tree:
    contents = contents_of(size, seed)
    path = f"/nix/store/{own}/share:/nix/store/{REFERENCE}/lib".encode()
    wrapper = f"#!/nix/store/{REFERENCE}/bin/sh\nexec x\n".encode()
    return Folder(
        {b"bin": Folder({b"x": File(contents + path + contents[:999], executable=True)}), b"wrap": File(wrapper)}
    )


LIBRARY = pushed(REFERENCE, Folder({b"lib": File(b"x" * 5000)}), compression="zstd")
HELLO = pushed(PATH, program(PATH), REFERENCE, compression="zstd")


def nar_of(data: bytes) -> bytes:
    """What a client that reads several frames gets."""
    out, unpacker = b"", zstd.ZstdDecompressor()
    while data:
        out += unpacker.decompress(data)
        data = unpacker.unused_data
        unpacker = zstd.ZstdDecompressor()
    return out
