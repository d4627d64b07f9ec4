"""Uploads in parts, at the double and at a real server of S3."""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from typing import Final

import obstore
import pytest
from msgspec.structs import replace
from obstore.store import S3Store
from s3_double import Fault, Object, S3Double
from waiting import wait_until

from harmonia_py.errors import FormatError, StorageError
from harmonia_py.storage.s3.multipart import Multipart
from harmonia_py.storage.s3.settings import S3Settings
from harmonia_py.storage.s3.stores import question_store

PART: Final = 5 * 1024 * 1024
NAME: Final = ".pending/s/x"


@pytest.fixture(params=["double", pytest.param("bucket", marks=pytest.mark.s3)])
def settings(request: pytest.FixtureRequest) -> S3Settings:
    found: S3Settings = request.getfixturevalue(request.param).settings("kept")
    return replace(found, public_endpoint=found.endpoint)


@pytest.fixture
async def multipart(settings: S3Settings) -> AsyncIterator[Multipart]:
    async for multipart in opened(settings):
        yield multipart


async def opened(settings: S3Settings, max_copy: int = PART) -> AsyncIterator[Multipart]:
    assert settings.credentials is not None
    multipart = Multipart(settings, settings.credentials, max_copy=max_copy)
    try:
        yield multipart
    finally:
        await multipart.aclose()


@pytest.fixture
def store(settings: S3Settings) -> S3Store:
    return question_store(settings)


def put(url: str, data: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and tag."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}, method="PUT"), timeout=30) as sent:
            return sent.status, sent.headers["ETag"]
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, ""


async def sent(multipart: Multipart, name: str, upload: str, *parts: bytes) -> list[str]:
    tags = []
    for number, data in enumerate(parts, 1):
        status, tag = await asyncio.to_thread(put, multipart.part_url(name, upload, number, len(data)), data)
        assert status == 200
        tags.append(tag)
    return tags


async def test_parts_become_an_object_in_their_order_with_the_headers_of_a_nar(
    multipart: Multipart, store: S3Store
) -> None:
    upload = await multipart.begin(NAME)
    tags = await sent(multipart, NAME, upload, b"a" * PART, b"end")
    assert await multipart.complete(NAME, upload, tags)
    found = obstore.get(store, NAME)
    assert found.attributes["Content-Type"] == "application/x-nix-nar"
    assert bytes(found.bytes()) == b"a" * PART + b"end"


async def test_an_upload_that_is_completed_takes_no_part_any_more(multipart: Multipart, store: S3Store) -> None:
    upload = await multipart.begin(NAME)
    tags = await sent(multipart, NAME, upload, b"right")
    assert await multipart.complete(NAME, upload, tags)
    status, _ = await asyncio.to_thread(put, multipart.part_url(NAME, upload, 1, 5), b"wrong")
    assert status == 404
    await multipart.complete(NAME, upload, tags)  # servers differ in whether they know of it still
    await multipart.abort(NAME, upload)
    assert bytes(obstore.get(store, NAME).bytes()) == b"right"


@pytest.mark.parametrize("wrong", ["another tag", "a part too many", "a part too few", "no part", "another order"])
async def test_other_parts_than_those_that_were_sent_become_nothing(
    multipart: Multipart, store: S3Store, wrong: str
) -> None:
    upload = await multipart.begin(NAME)
    first, last = await sent(multipart, NAME, upload, b"a" * PART, b"end")
    named = {
        "another tag": [first, f'"{"0" * 32}"'],
        "a part too many": [first, last, last],
        "a part too few": [last],
        "no part": [],
        "another order": [last, first],
    }[wrong]
    try:
        is_there = await multipart.complete(NAME, upload, named)
    except FormatError:
        is_there = False
    assert not is_there
    with pytest.raises(FileNotFoundError):
        obstore.head(store, NAME)
    await multipart.abort(NAME, upload)
    assert not await multipart.open_uploads("")


async def test_an_upload_belongs_to_the_name_that_it_was_begun_for(multipart: Multipart) -> None:
    upload = await multipart.begin(NAME)
    tags = await sent(multipart, NAME, upload, b"data")
    other = ".pending/t/x"
    status, _ = await asyncio.to_thread(put, multipart.part_url(other, upload, 1, 4), b"more")
    assert status == 404
    assert not await multipart.complete(other, upload, tags)
    await multipart.abort(other, upload)
    assert [one.name for one in await multipart.open_uploads("")] == [NAME]


@pytest.mark.s3
async def test_the_url_of_a_part_is_good_for_that_part_of_that_length(bucket: "object") -> None:
    settings: S3Settings = bucket.settings("kept")  # type: ignore[attr-defined]
    async for multipart in opened(replace(settings, public_endpoint=settings.endpoint)):
        upload = await multipart.begin(NAME)
        url = multipart.part_url(NAME, upload, 2, 4)
        for changed, data in (
            (url, b"longer"),
            (url, b"s"),
            (url.replace("partNumber=2", "partNumber=3"), b"data"),
            (url.replace("/.pending/s/x", "/nar/x"), b"data"),
        ):
            assert (await asyncio.to_thread(put, changed, data))[0] == 403
        assert (await asyncio.to_thread(put, url, b"data"))[0] == 200


async def test_open_uploads_are_listed_below_a_prefix_until_they_are_aborted(
    multipart: Multipart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonia_py.storage.s3.multipart._LISTED", 2)
    names = [f".pending/s/{number}" for number in range(5)]
    uploads = {name: await multipart.begin(name) for name in [*names, ".pending/t/x", "nar/y"]}
    assert sorted(one.name for one in await multipart.open_uploads(".pending/s/")) == names
    listed = await multipart.open_uploads("")
    assert {one.name: one.id for one in listed} == uploads
    for one in listed:
        for _ in range(2):
            await multipart.abort(one.name, one.id)
    assert not await multipart.open_uploads("")


@pytest.mark.parametrize("size", [5, PART, PART + 1, 3 * PART])
async def test_an_object_is_copied_whole_in_one_request_or_in_parts(
    multipart: Multipart, store: S3Store, size: int
) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    obstore.put(store, NAME, data[:size], attributes={"Content-Type": "application/x-nix-nar"})
    await multipart.copy(NAME, "nar/a b", str(obstore.head(store, NAME)["e_tag"]), size)
    copied = obstore.get(store, "nar/a b")
    assert bytes(copied.bytes()) == data[:size]
    assert copied.attributes["Content-Type"] == "application/x-nix-nar"
    assert not await multipart.open_uploads("")


@pytest.mark.parametrize("size", [5, PART + 1])
async def test_an_object_that_was_replaced_is_not_copied(multipart: Multipart, store: S3Store, size: int) -> None:
    obstore.put(store, NAME, bytes(size))
    etag = str(obstore.head(store, NAME)["e_tag"])
    obstore.put(store, NAME, b"x" * size)
    with pytest.raises(StorageError, match="412"):
        await multipart.copy(NAME, "nar/x", etag, size)
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "nar/x")
    assert not await multipart.open_uploads("")


async def cut_copy(multipart: Multipart, double: S3Double) -> None:
    """Let a long object be copied, and cancel that when its first part is on its way."""
    double.objects[f"kept/{NAME}"] = Object(bytes(3 * PART), {})
    double.fault("PUT", "partNumber=", Fault.SLOW, times=10)
    copying = asyncio.create_task(multipart.copy(NAME, "nar/x", double.objects[f"kept/{NAME}"].etag, 3 * PART))
    await asyncio.to_thread(wait_until, lambda: any("partNumber" in line for line in double.seen), "nothing is copied")
    copying.cancel()
    async with asyncio.timeout(20):
        await asyncio.wait([copying])
    assert copying.cancelled()


async def test_a_copy_that_is_cut_leaves_no_upload(double: S3Double) -> None:
    """A server that was stopped meanwhile left one under a name that no sweep looks at."""
    async for multipart in opened(double.settings("kept", public_endpoint=double.endpoint)):
        await cut_copy(multipart, double)
        assert not double.uploads
        assert "kept/nar/x" not in double.objects


async def test_a_copy_that_is_cut_does_not_wait_for_a_bucket_that_is_silent(
    double: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonia_py.storage.s3.multipart._ABORT_SECONDS", 0.1)
    async for multipart in opened(double.settings("kept", public_endpoint=double.endpoint)):
        double.fault("DELETE", "nar/x", Fault.SILENT)
        start = time.monotonic()
        await cut_copy(multipart, double)
        assert time.monotonic() - start < 5, "the bucket is asked for eight seconds otherwise"
        assert [line for line in double.seen if line.startswith("DELETE")], "it was asked"


async def test_a_request_that_is_refused_for_its_key_says_nothing_of_the_parts(double: S3Double) -> None:
    """S3 answers 400 to this as well: the parts counted as wrong, and all that had been sent was forgotten."""
    async for multipart in opened(double.settings("kept", public_endpoint=double.endpoint)):
        upload = await multipart.begin(NAME)
        tags = await sent(multipart, NAME, upload, b"data")
        double.fault("POST", "uploadId", Fault.EXPIRED)
        with pytest.raises(StorageError, match="ExpiredToken"):
            await multipart.complete(NAME, upload, tags)
        assert await multipart.complete(NAME, upload, tags)


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.SLOW_DOWN, Fault.LOST, Fault.ERROR_IN_200])
async def test_what_a_bucket_fails_at_once_is_asked_again(double: S3Double, fault: Fault) -> None:
    async for multipart in opened(double.settings("kept", public_endpoint=double.endpoint)):
        upload = await multipart.begin(NAME)
        tags = await sent(multipart, NAME, upload, b"data")
        double.fault("POST", "uploadId", fault)
        done = await multipart.complete(NAME, upload, tags)
        assert done is (fault is not Fault.LOST), "one that is done, and whose answer is lost, is no upload any more"
        assert double.objects["kept/.pending/s/x"].data == b"data"
        double.fault("POST", "uploads", fault, times=3)
        with pytest.raises(StorageError):
            await multipart.begin(NAME)
        assert not double.faults_left()
