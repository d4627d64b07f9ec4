"""Build logs, found as Nix files them and never anywhere else."""

import bz2
import os
from pathlib import Path

import pytest
from lab import Lab

from harmonia_py.cache.source import Download, FileSlice
from harmonia_py.errors import StorageError
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.files import logs

DRV = StorePath.parse("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-hello-2.12.drv")
TEXT = b"building\n" * 100_000


def read(download: Download | None) -> bytes:
    assert download is not None
    with download:
        data = []
        for piece in download.pieces(0, download.size):
            if isinstance(piece, FileSlice):
                data.append(os.pread(piece.fd, piece.size, piece.offset))
            else:
                assert isinstance(piece, bytes)
                data.append(piece)
        return b"".join(data)


def write(directory: Path, data: bytes, suffix: str = "", *, split: bool = True) -> Path:
    file = directory / "drvs" / (f"{DRV[:2]}/{DRV[2:]}{suffix}" if split else f"{DRV}{suffix}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_the_log_that_nix_wrote_is_found_by_its_name_and_by_its_hash_part(lab: Lab) -> None:
    derivation = lab.closure.derivation
    for named in (derivation, derivation.hash_part):
        assert read(logs.find(lab.log_dir, named)) == b"FOO-log-line\n"


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("suffix", ["", ".bz2"])
def test_every_place_and_form_is_read(tmp_path: Path, suffix: str, *, split: bool) -> None:
    write(tmp_path, bz2.compress(TEXT) if suffix else TEXT, suffix, split=split)
    assert read(logs.find(tmp_path, DRV)) == TEXT


def test_the_size_is_known_where_nothing_is_decompressed(tmp_path: Path) -> None:
    write(tmp_path, TEXT)
    download = logs.find(tmp_path, DRV)
    assert download is not None
    assert download.size == len(TEXT)
    write(tmp_path, bz2.compress(TEXT), ".bz2").with_suffix("").unlink()
    download = logs.find(tmp_path, DRV)
    assert download is not None
    assert download.size is None


def test_an_empty_log_is_a_log(tmp_path: Path) -> None:
    write(tmp_path, b"")
    assert read(logs.find(tmp_path, DRV)) == b""


def test_several_bzip2_streams_are_one_log(tmp_path: Path) -> None:
    write(tmp_path, bz2.compress(b"one\n") + bz2.compress(b"two\n"), ".bz2")
    assert read(logs.find(tmp_path, DRV)) == b"one\ntwo\n"


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    for named in (DRV, DRV.hash_part):
        assert logs.find(tmp_path, named) is None
        assert logs.find(tmp_path / "nowhere", named) is None
    write(tmp_path, TEXT)
    assert logs.find(tmp_path, HashPart.parse("2l" + "0" * 30)) is None
    assert logs.find(tmp_path, StorePath.parse(f"{DRV.hash_part}-other.drv")) is None


def test_a_directory_of_that_name_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "drvs" / DRV[:2] / DRV[2:]).mkdir(parents=True)
    for named in (DRV, DRV.hash_part):
        assert logs.find(tmp_path, named) is None


@pytest.mark.parametrize("data", [b"no bzip2", bz2.compress(TEXT)[:-20], b"BZh9" + b"\xff" * 100])
def test_a_log_that_is_damaged_is_an_error_and_no_shorter_log(tmp_path: Path, data: bytes) -> None:
    write(tmp_path, data, ".bz2")
    with pytest.raises(StorageError, match="a build log cannot be read"):
        read(logs.find(tmp_path, DRV))


def test_a_log_that_vanishes_before_it_is_sent_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path, TEXT)
    download = logs.find(tmp_path, DRV)
    file.unlink()
    with pytest.raises(StorageError):
        read(download)


def test_a_log_that_was_written_again_has_another_etag(tmp_path: Path) -> None:
    file = write(tmp_path, TEXT)
    first = logs.find(tmp_path, DRV)
    os.utime(file, ns=(1, 1))
    second = logs.find(tmp_path, DRV)
    assert first is not None
    assert second is not None
    assert first.etag != second.etag


def test_a_log_that_never_ends_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """45 bytes of bzip2 stand for a megabyte."""
    monkeypatch.setattr(logs, "_MAX_LOG_BYTES", 1_000_000)
    write(tmp_path, bz2.compress(b"0" * 10_000_000), ".bz2")
    with pytest.raises(StorageError, match="too long"):
        read(logs.find(tmp_path, DRV))
