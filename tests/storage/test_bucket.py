"""What a bucket says that is no plain answer, and what comes of it."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest
from obstore.store import S3Store
from s3_double import Fault, S3Double

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.storage.s3 import deletions, stores
from harmonia_py.storage.s3 import objects as module
from harmonia_py.storage.s3.blobs import S3Blobs
from harmonia_py.storage.s3.digests import S3Digests
from harmonia_py.storage.s3.uploads import S3Uploads

KEY = BlobKey("nar/a.nar.zst")


@pytest.fixture
async def blobs(double: S3Double) -> AsyncIterator[S3Blobs]:
    async with S3Blobs(double.settings("kept")) as blobs:
        yield blobs


@pytest.mark.parametrize("fault", [Fault.NO_BUCKET, Fault.FOREIGN_404])
async def test_a_404_that_does_not_speak_of_the_key_is_an_error_and_no_absence(
    double: S3Double, blobs: S3Blobs, fault: Fault
) -> None:
    """A proxy before the bucket was set up wrongly and answered 404 with a page: every file was taken for lost."""
    await blobs.put(KEY, b"data", {})
    double.fault("GET", "nar/", fault, times=3)
    with pytest.raises(StorageError):
        await blobs.metadata(KEY)
    with pytest.raises(StorageError):
        await blobs.open(KEY)
    async with S3Digests(double.settings("kept")) as digests:
        with pytest.raises(StorageError):
            await digests.digest(KEY)
    double.fault("PUT", "nar/b", fault)
    with pytest.raises(StorageError):
        await blobs.objects.copy(KEY, "nar/b")
    assert not double.faults_left()
    assert await blobs.metadata(KEY) == {}


@pytest.mark.parametrize("fault", [Fault.NO_BUCKET, Fault.FOREIGN_404])
async def test_a_deletion_that_another_server_answers_is_not_done(
    double: S3Double, blobs: S3Blobs, fault: Fault
) -> None:
    await blobs.put(KEY, b"data", {})
    double.fault("POST", "delete", fault)
    with pytest.raises(StorageError):
        await blobs.delete(KEY)
    assert await blobs.metadata(KEY) == {}
    await blobs.delete(KEY)
    assert await blobs.metadata(KEY) is None


async def test_metadata_of_a_clients_choice_are_not_taken_for_ours(double: S3Double) -> None:
    """Lenient servers keep headers that are not signed: the metadata of a blob were what its sender wrote."""
    async with S3Blobs(double.settings("kept", public_endpoint=double.endpoint)) as blobs:
        uploads = S3Uploads(blobs)
        url = await uploads.url("name")
        request = urllib.request.Request(url, b"data", {"Content-Type": "application/x-nix-nar"}, method="PUT")
        request.add_header("x-amz-meta-harmonia", "{")

        def send() -> None:
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.status == 200

        await asyncio.to_thread(send)
        with pytest.raises(FormatError, match="harmonia"):
            await uploads.seize("name")
        assert list(double.objects) == ["kept/.pending/name"], "the copy is gone"


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.SILENT])
async def test_files_that_a_bucket_does_not_delete_together_take_a_limited_time(
    double: S3Double, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Each of 500 was tried after the other, for half a minute each, when the bucket did not answer."""
    monkeypatch.setattr(deletions, "_ONE_BY_ONE_SECONDS", 1.0)
    monkeypatch.setattr(stores, "_ANSWER_SECONDS", 0.5)
    double.fault("POST", "delete", fault, times=1000)
    keys = [BlobKey(f"nar/{number}.nar") for number in range(100)]
    async with asyncio.timeout(30):
        found = await asyncio.gather(*map(blobs.delete, keys), return_exceptions=True)
    assert all(isinstance(error, StorageError) for error in found)


async def test_a_deletion_ends_also_when_what_was_asked_beside_it_ends_with_an_error(
    blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that was not foreseen ended the task that deletes, and left every caller waiting."""

    async def fail(_: object) -> None:
        raise RuntimeError("a mistake of this program")

    with monkeypatch.context() as mistaken:
        mistaken.setattr(blobs.objects, "remove", fail)
        async with asyncio.timeout(30):
            found = await asyncio.gather(blobs.delete(KEY), blobs.delete(KEY), return_exceptions=True)
        assert [type(error) for error in found] == [StorageError, StorageError]
        deleting = blobs._deletions._asking
        assert deleting is not None
        with pytest.raises(RuntimeError):
            await deleting
    await blobs.put(KEY, b"data", {})
    await blobs.delete(KEY)
    assert await blobs.metadata(KEY) is None


async def test_a_question_for_many_files_opens_few_connections(blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asked for 50,000 paths had the server open as many connections as it may have files."""
    get, inside, most = module._get, 0, 0

    async def counted(store: S3Store, key: str, size: int) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        try:
            return await get(store, key, size)
        finally:
            inside -= 1

    await blobs.put(KEY, b"data", {})
    monkeypatch.setattr(module, "_get", counted)
    asked = [KEY, *(BlobKey(f"nar/{number}.nar") for number in range(200))]
    assert await asyncio.gather(*map(blobs.metadata, asked)) == [{}, *[None] * 200]
    assert most == 64
