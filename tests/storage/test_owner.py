"""Whose a prefix of a bucket is: one catalog's, whatever the bucket answers, and however many come at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest
from s3_double import Fault, Object, S3Double
from seaweed import Bucket

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import StorageError
from harmonia_py.storage.s3 import owner as module
from harmonia_py.storage.s3 import stores
from harmonia_py.storage.s3.blobs import S3Blobs
from harmonia_py.storage.s3.multipart import Multipart
from harmonia_py.storage.s3.multipart_uploads import S3MultipartUploads
from harmonia_py.storage.s3.owner import ForeignBucket, Identity
from harmonia_py.storage.s3.uploads import S3Uploads

KEY = BlobKey("nar/a.nar.zst")
OURS, OTHER = "a" * 32, "b" * 32
MARKER = "kept/.catalog"


Open = Callable[[S3Double | Bucket, str], Awaitable[S3Blobs]]


def teller(identity: str) -> Identity:
    async def tell() -> str:
        return identity

    return tell


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens the blobs of a catalog."""
    async with AsyncExitStack() as stack:

        async def open_(place: S3Double | Bucket, identity: str) -> S3Blobs:
            settings = place.settings("kept", public_endpoint=place.endpoint)
            return await stack.enter_async_context(S3Blobs(settings, teller(identity)))

        yield open_


def asked(double: S3Double) -> list[str]:
    return [line.partition(" ")[0] for line in double.seen if line.endswith(MARKER)]


@pytest.mark.parametrize("place", ["double", pytest.param("bucket", marks=pytest.mark.s3)])
async def test_of_catalogs_that_come_at_once_one_gets_the_prefix(
    request: pytest.FixtureRequest, opened: Open, place: str
) -> None:
    """Each of them wrote what the others took for garbage."""
    bucket = request.getfixturevalue(place)
    identities = [OURS] * 4 + [OTHER] * 4
    blobs = [await opened(bucket, identity) for identity in identities]
    found = await asyncio.gather(
        *(one.put(BlobKey(f"nar/{number}.nar"), b"", {}) for number, one in enumerate(blobs)), return_exceptions=True
    )
    refused = {identity for identity, error in zip(identities, found, strict=True) if error is not None}
    assert len(refused) == 1
    assert [type(error) for error in found].count(ForeignBucket) == 4
    assert [type(error) for error in found].count(type(None)) == 4
    taken = [one for one, error in zip(blobs, found, strict=True) if error is None]
    assert len([info async for info in taken[0].list()]) == 4


async def test_a_prefix_with_files_and_no_owner_is_that_of_the_catalog_that_fits_first(
    double: S3Double, opened: Open
) -> None:
    double.objects[f"kept/{KEY}"] = Object(b"data", {})
    ours, other = await opened(double, OURS), await opened(double, OTHER)
    await ours.objects.owner.check(fits=True)
    await ours.delete(KEY)
    assert double.objects.keys() == {MARKER}
    assert double.objects[MARKER].data == f"{OURS}\n".encode()
    assert [info async for info in ours.list()] == [], "it is no blob"
    with pytest.raises(ForeignBucket, match=rf"s3://double/kept .* another prefix .* delete the object {MARKER}"):
        await other.put(KEY, b"data", {})


async def test_nothing_of_a_foreign_prefix_is_changed_in_any_way(double: S3Double, opened: Open) -> None:
    other = await opened(double, OTHER)
    await other.put(KEY, b"data", {})
    double.objects["kept/.pending/name"] = Object(b"sent", {})
    blobs = await opened(double, OURS)
    settings = double.settings("kept")
    assert settings.credentials is not None
    multipart = Multipart(settings, settings.credentials)
    uploads, in_parts = S3Uploads(blobs), S3MultipartUploads(multipart, blobs.objects)
    of_other = S3MultipartUploads(multipart, other.objects)
    await of_other.begin("parts")
    (upload,) = await of_other.unfinished()
    before, seen = dict(double.objects), len(double.seen)
    for change in (
        lambda: blobs.put(KEY, b"ours", {}),
        lambda: blobs.delete(KEY),
        blobs.objects.probe,
        lambda: uploads.url("name"),
        lambda: uploads.seize("name"),
        lambda: uploads.forget("name"),
        lambda: uploads.sweep(-60.0),
        lambda: in_parts.begin("name"),
        lambda: in_parts.seize(upload, ['"tag"']),
        lambda: in_parts.forget(upload),
    ):
        with pytest.raises(ForeignBucket):
            await change()
    assert (double.objects, len(double.uploads)) == (before, 1)
    assert not [line for line in double.seen[seen:] if not line.startswith("GET ")]
    assert await blobs.metadata(KEY) == {}, "reading it does no harm"
    await multipart.aclose()


async def test_a_bucket_that_cannot_tell_belongs_to_no_other_and_is_asked_again(double: S3Double, opened: Open) -> None:
    await (await opened(double, OURS)).put(KEY, b"data", {})
    blobs = await opened(double, OURS)
    for fault, times in ((Fault.ERROR, 3), (Fault.FOREIGN_404, 1), (Fault.ERROR_IN_200, 1)):
        double.fault("GET", MARKER, fault, times=times)
        with pytest.raises(StorageError) as raised:
            await blobs.delete(KEY)
        assert not isinstance(raised.value, ForeignBucket)
    assert f"kept/{KEY}" in double.objects
    await blobs.delete(KEY)
    assert f"kept/{KEY}" not in double.objects


@pytest.mark.parametrize("text", [b"", b"<html>", b"a" * 31, b"a" * 5000])
async def test_an_object_that_names_no_catalog_is_a_fault_and_is_not_replaced(
    double: S3Double, opened: Open, text: bytes
) -> None:
    double.objects[MARKER] = Object(text, {})
    blobs = await opened(double, OURS)
    with pytest.raises(StorageError, match=rf"the object {MARKER} does not name a catalog; delete it") as raised:
        await blobs.put(KEY, b"data", {})
    assert not isinstance(raised.value, ForeignBucket)
    await blobs.objects.owner.check_at_start()
    assert double.objects[MARKER].data == text


@pytest.mark.parametrize(("method", "step"), [("GET", "read"), ("PUT", "write")])
async def test_a_policy_that_forbids_the_object_is_told_apart(
    double: S3Double, opened: Open, method: str, step: str
) -> None:
    double.fault(method, MARKER, Fault.FORBIDDEN)
    with pytest.raises(StorageError, match=rf"cannot {step} {MARKER}, which .* the bucket answers 403"):
        await (await opened(double, OURS)).put(KEY, b"data", {})


async def test_a_prefix_with_files_is_not_taken_by_a_catalog_that_may_not_fit_them(
    double: S3Double, opened: Open
) -> None:
    """One that a wrong state directory began took the prefix at the first push, and the right one was refused."""
    double.objects[f"kept/{KEY}"] = Object(b"data", {})
    blobs = await opened(double, OURS)
    for _ in range(2):
        with pytest.raises(StorageError, match="s3://double/kept has files and belongs to no catalog"):
            await blobs.delete(KEY)
    assert double.objects.keys() == {f"kept/{KEY}"}
    await blobs.objects.owner.check(fits=True)
    await blobs.delete(KEY)
    assert double.objects.keys() == {MARKER}


async def test_a_prefix_is_taken_over_at_a_word_alone(double: S3Double, opened: Open) -> None:
    await (await opened(double, OTHER)).put(KEY, b"data", {})
    owner = (await opened(double, OURS)).objects.owner
    with pytest.raises(ForeignBucket):
        await owner.check(fits=True)
    assert await owner.take_over()
    await owner.check()
    assert double.objects[MARKER].data == f"{OURS}\n".encode()
    assert not await owner.take_over()


async def test_a_start_waits_for_a_silent_bucket_for_a_moment(
    double: S3Double, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that does not serve within half a minute fails, and with it the server."""
    monkeypatch.setattr(module, "_START_SECONDS", 0.1)
    monkeypatch.setattr(stores, "_ANSWER_SECONDS", 1.0)
    double.fault("GET", MARKER, Fault.SILENT, times=3)
    blobs = await opened(double, OURS)
    await blobs.objects.owner.check_at_start()
    assert (
        "the bucket does not answer; until that is known, nothing is written or deleted in s3://double/kept"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (Fault.LOST, 1),
        (Fault.NOT_IMPLEMENTED, 3),
        (Fault.BAD_REQUEST, 1),
        (Fault.NOT_ALLOWED, 1),
        (Fault.NO_CONDITION, 1),
        (Fault.CUT, 1),
    ],
)
async def test_the_owner_is_written_on_every_server(double: S3Double, opened: Open, fault: Fault, times: int) -> None:
    """Some servers refuse what they do not know, some ignore it, and some answers are lost."""
    double.fault("PUT", MARKER, fault, times=times)
    await (await opened(double, OURS)).put(KEY, b"data", {})
    assert not double.faults_left()
    assert double.objects[MARKER].data == f"{OURS}\n".encode()


async def test_a_server_that_ignores_the_condition_keeps_one_owner_whom_both_read_back(
    double: S3Double, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found no owner, and each took its own write for the one that counts."""
    double.fault("PUT", MARKER, Fault.NO_CONDITION, times=2)
    blobs = [await opened(double, identity) for identity in (OURS, OTHER)]
    both = asyncio.Barrier(2)

    async def write_together(write: Callable[..., Awaitable[None]], *, over: bool) -> None:
        await both.wait()
        await write(over=over)
        await both.wait()

    for one in blobs:
        owner = one.objects.owner
        monkeypatch.setattr(owner, "_write", partial(write_together, owner._write))
    found = await asyncio.gather(*(one.put(KEY, b"", {}) for one in blobs), return_exceptions=True)
    assert {type(error) for error in found} == {type(None), ForeignBucket}


async def test_a_server_that_makes_a_bucket_for_its_first_object_gets_one(double: S3Double, opened: Open) -> None:
    """The owner was to be read before anything is written, and nothing could be read before the first object was."""
    double.fault("GET", MARKER, Fault.NO_BUCKET)
    double.fault("GET", "list-type", Fault.NO_BUCKET)
    await (await opened(double, OURS)).put(KEY, b"data", {})
    assert not double.faults_left()
    assert double.objects[MARKER].data == f"{OURS}\n".encode()


async def test_the_owner_is_asked_once_and_by_nothing_that_reads(double: S3Double, opened: Open) -> None:
    await (await opened(double, OURS)).put(KEY, b"data", {})
    assert asked(double) == ["GET", "PUT", "GET"]
    double.seen.clear()
    blobs = await opened(double, OURS)
    assert await blobs.metadata(KEY) == {}
    assert [info.key async for info in blobs.list()] == [KEY]
    assert asked(double) == []
    await asyncio.gather(*(blobs.put(BlobKey(f"nar/{number}.nar"), b"", {}) for number in range(10)))
    await blobs.delete(KEY)
    await blobs.objects.probe()
    assert asked(double) == ["GET"]


@pytest.mark.parametrize("place", ["double", pytest.param("bucket", marks=pytest.mark.s3)])
async def test_what_belongs_to_a_prefix_inside_is_not_listed(request: pytest.FixtureRequest, place: str) -> None:
    bucket = request.getfixturevalue(place)
    async with AsyncExitStack() as stack:
        for prefix in ("", "kept", "kept/more", "keptx", "team/inside"):
            blobs = await stack.enter_async_context(S3Blobs(bucket.settings(prefix), teller(OURS) if prefix else None))
            for key in ("kept-a", "nar/a", "team/a", "team/log/a"):
                await blobs.put(BlobKey(key), b"", {})
        for prefix in ("", "kept"):
            blobs = await stack.enter_async_context(S3Blobs(bucket.settings(prefix)))
            assert {info.key async for info in blobs.list()} == {"kept-a", "nar/a", "team/a", "team/log/a"}


async def test_a_bucket_that_lists_in_another_order_is_not_taken_at_its_word(
    double: S3Double, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (MARKER, "kept/nar/a", "kept/inside/.catalog", "kept/inside/nar/a"):
        double.objects[name] = Object(f"{OURS}\n".encode(), {})
    blobs = await opened(double, OURS)
    monkeypatch.setattr("s3_double.sorted", lambda names: sorted(names, reverse=True), raising=False)
    with pytest.raises(StorageError, match=r"the bucket lists inside/\.catalog"):
        assert [info async for info in blobs.list()]


async def test_what_only_looks_takes_no_prefix(double: S3Double, opened: Open) -> None:
    assert not await (await opened(double, OURS)).objects.owner.compare()
    assert double.objects == {}
    await (await opened(double, OTHER)).put(KEY, b"data", {})
    with pytest.raises(ForeignBucket):
        await (await opened(double, OURS)).objects.owner.compare()
