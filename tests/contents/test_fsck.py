"""What reading a kept file again finds."""

from collections.abc import Iterator, Mapping

import pytest
from zstd_library import zstd

from harmonia_py.cache.source import Piece
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Rotten, check_file
from harmonia_py.contents.pieces import BUFFER_BYTES
from harmonia_py.nix.hashes import Hash

STORE_PATH = "n5wkd9frr45pa74if5gpz9j7mifg27fh-hello-2.12"
KEY = BlobKey.parse(f"{STORE_PATH[:32]}-{Hash.of(b'nar').nix32}.nar.zst")


def facts(file: bytes, nar: bytes) -> dict[str, str]:
    return {
        "store_path": STORE_PATH,
        "file_hash": str(Hash.of(file)),
        "file_size": str(len(file)),
        "nar_hash": str(Hash.of(nar)),
        "nar_size": str(len(nar)),
    }


def check(file: bytes, metadata: Mapping[str, str]) -> Rotten | None:
    counted = 0

    def pieces() -> Iterator[Piece]:
        for start in range(0, len(file), 1000):
            yield file[start : start + 1000]

    def count(size: int) -> None:
        nonlocal counted
        counted += size

    found = check_file(KEY, metadata, pieces(), count)
    assert counted == len(file) or found is not None
    return found


@pytest.mark.parametrize("size", [1, 1000, BUFFER_BYTES - 1, BUFFER_BYTES, 3 * BUFFER_BYTES + 5])
def test_what_was_kept_is_right(size: int) -> None:
    nar = bytes(range(251)) * (size // 251 + 1)
    nar = nar[:size]
    file = zstd.compress(nar)
    assert check(file, facts(file, nar)) is None


def test_each_way_to_be_wrong_has_words() -> None:
    nar = b"some nar" * 1000
    file = zstd.compress(nar)
    other = zstd.compress(nar[:-1] + b"!")

    def reason(data: bytes, metadata: dict[str, str]) -> str:
        found = check(data, metadata)
        assert found is not None
        assert found.key == KEY
        return found.reason

    assert "FileHash" in reason(file, facts(other, nar) | {"file_size": str(len(file))})
    assert "NarHash" in reason(other, facts(other, nar))
    assert "NarSize" in reason(file, facts(file, nar) | {"nar_size": str(len(nar) + 1)})
    assert "no whole zstd file" in reason(file[:-3], facts(file[:-3], nar))
    assert "no whole zstd file" in reason(b"junk", facts(b"junk", nar))
    assert "no whole zstd file" in reason(file + b"more", facts(file + b"more", nar))
    assert "does not parse" in reason(file, {})
    assert "does not parse" in reason(file, facts(file, nar) | {"nar_size": "many"})


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zstd.compress(bytes(500_000_000))
    found = check(bomb, facts(bomb, b"x"))
    assert found is not None
    assert "longer than its NarSize" in found.reason
