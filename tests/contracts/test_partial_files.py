"""What every `PartialFiles` promises."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.partial_files import DiskPartialFiles

NAME = "1xc139bdija9cj3m70sgbkhf51s235acm2h70y5kzch7xk0mxav2.nar.zst"


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[DiskPartialFiles]:
    files = DiskPartialFiles(tmp_path)
    yield files
    await files.aclose()


async def test_a_file_that_nothing_was_sent_of_has_no_bytes(files: DiskPartialFiles) -> None:
    assert await files.size(NAME) == 0


async def test_what_one_request_adds_the_next_goes_on_with(files: DiskPartialFiles) -> None:
    for number, part in enumerate((b"one", b"two", b"three")):
        file = await files.open(NAME)
        assert file is not None
        assert file.size == len(b"onetwothree"[: 3 * number])
        file.write(part)
        file.close()
    assert await files.size(NAME) == 11
    file = await files.open(NAME)
    assert file is not None
    assert b"".join(file.read()) == b"onetwothree"
    file.close()


async def test_the_bytes_of_files_whose_names_begin_alike_are_told_together(files: DiskPartialFiles) -> None:
    assert await files.taken("") == 0
    for name, data in (("1-a", b"one"), ("1-b", b"three"), ("12-a", b"other")):
        file = await files.open(name)
        assert file is not None
        file.write(data)
        file.close()
    assert [await files.taken(prefix) for prefix in ("1-", "12-", "2-", "")] == [8, 5, 0, 13]


async def test_a_file_that_a_blob_store_has_taken_counts_there_alone(files: DiskPartialFiles, tmp_path: Path) -> None:
    """A process was killed before it had removed the first name: until the sweep, a day later, pushes got 413."""
    for name in ("1-whole", "1-being-sent"):
        file = await files.open(name)
        assert file is not None
        file.write(b"twelve bytes")
        if name == "1-whole":
            async with DiskBlobs(tmp_path) as blobs:
                await blobs.put(BlobKey("nar/whole.nar"), file.spooled(), {}, durable=True)
        file.close()
    assert await files.taken("1-") == 12


async def test_one_request_alone_has_a_file(files: DiskPartialFiles) -> None:
    file = await files.open(NAME)
    assert file is not None
    assert await files.open(NAME) is None
    other = await files.open(NAME.replace("1x", "1y"))
    assert other is not None
    other.close()
    file.close()
    again = await files.open(NAME)
    assert again is not None
    again.close()


async def test_a_file_that_is_removed_begins_anew(files: DiskPartialFiles) -> None:
    file = await files.open(NAME)
    assert file is not None
    file.write(b"wrong")
    file.remove()
    file.close()
    assert await files.size(NAME) == 0
    again = await files.open(NAME)
    assert again is not None
    assert again.size == 0
    again.close()


async def test_a_blob_store_finds_all_bytes_in_a_whole_file(files: DiskPartialFiles) -> None:
    file = await files.open(NAME)
    assert file is not None
    file.write(b"all")
    whole = file.spooled()
    assert (whole.size, await asyncio.to_thread(os.pread, whole.fd, 10, 0)) == (3, b"all")
    file.close()


async def test_a_file_to_which_nothing_is_added_is_swept_and_one_that_is_open_is_not(files: DiskPartialFiles) -> None:
    left, taken = NAME, NAME.replace("1x", "1y")
    file = await files.open(left)
    assert file is not None
    file.write(b"left")
    file.close()
    being = await files.open(taken)
    assert being is not None
    being.write(b"being sent")
    assert await files.sweep(3600) == 0
    assert await files.sweep(-1) == 1
    assert (await files.size(left), await files.size(taken)) == (0, 10)
    being.close()
