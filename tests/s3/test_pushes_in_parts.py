"""Large files that our client sends to the bucket in parts: at a real server of S3, and at one that fails."""

import asyncio
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from clients import TIME_LIMIT, parse
from lab import Lab
from pushing_past import Past, large_path, past
from s3_double import Fault, S3Double
from s3_double import environment as credentials_of_double
from seaweed import Bucket, environment
from waiting import wait_until

from harmonia_py.storage.s3.multipart import Multipart

pytestmark = pytest.mark.s3

PART: Final = 7 * 1024 * 1024
SIZE: Final = 3 * PART + 1_000_000
_SMALL_PARTS: Final = f"&part_size={quote('7 MiB')}"


@pytest.fixture
def direct(daemon: Lab, bucket: Bucket, tmp_path: Path) -> Iterator[Past]:
    yield from past(tmp_path, daemon, bucket.url("kept") + _SMALL_PARTS, bucket.endpoint, environment())


@pytest.fixture
def double() -> Iterator[S3Double]:
    with S3Double() as double:
        yield double


@pytest.fixture
def doubled(daemon: Lab, double: S3Double, tmp_path: Path) -> Iterator[Past]:
    yield from past(tmp_path, daemon, double.url("kept") + _SMALL_PARTS, double.endpoint, credentials_of_double())


def parts_sent(double: S3Double) -> list[int]:
    """The number of each part that was sent, as often as it was."""
    return sorted(int(found[1]) for line in double.seen if (found := re.search(r"^PUT .*partNumber=(\d+)", line)))


def test_a_large_file_goes_in_parts_and_not_through_the_server(
    direct: Past, daemon: Lab, bucket: Bucket, tmp_path: Path
) -> None:
    path = large_path(daemon, tmp_path, SIZE)
    before = direct.proxy.sent
    done = direct.user.push(path)
    assert (done.status, done.states()) == (0, {path: "pushed"}), done.stderr
    assert done.summary["sent_bytes"] >= SIZE
    assert direct.proxy.sent - before < 50_000, "questions, tags and a narinfo"
    assert direct.substitutes(path)
    # A worker writes down a request when its answer has left.
    wait_until(lambda: direct.server.output().count("/uploads/") == 3, "begun, its URLs, done")
    assert not [key for key in bucket.all_keys() if "/.p" in key], "nothing pending is left"


def test_a_part_that_fails_is_sent_again_alone(doubled: Past, daemon: Lab, double: S3Double, tmp_path: Path) -> None:
    double.fault("PUT", "partNumber=2", Fault.ERROR)
    double.fault("PUT", "partNumber=3", Fault.LOST)
    path = large_path(daemon, tmp_path, SIZE)
    done = doubled.user.push(path)
    assert (done.status, done.states()) == (0, {path: "pushed"}), done.stderr
    assert parts_sent(double) == [1, 2, 2, 3, 3, 4]
    assert doubled.proxy.sent < 50_000
    assert doubled.substitutes(path)
    assert not double.uploads


@pytest.mark.parametrize("fault", [Fault.NO_BUCKET, Fault.FOREIGN_404, Fault.ERROR_IN_200])
def test_a_client_whose_parts_are_not_taken_sends_to_the_server(
    doubled: Past, daemon: Lab, double: S3Double, tmp_path: Path, fault: Fault
) -> None:
    double.fault("PUT", ".pending/", fault, times=1000)
    path = large_path(daemon, tmp_path, SIZE)
    done = doubled.user.push(path)
    assert (done.status, done.states()) == (0, {path: "pushed"}), done.stderr
    assert doubled.proxy.sent > SIZE
    assert doubled.substitutes(path)
    assert not double.uploads, "the client has given its upload up"


def test_a_push_goes_on_past_kill_minus_nine_of_the_server_between_two_parts(
    daemon: Lab, double: S3Double, tmp_path: Path
) -> None:
    double.fault("PUT", "partNumber=", Fault.SLOW, times=4)
    url = double.url("kept") + _SMALL_PARTS
    for server in past(tmp_path, daemon, url, double.endpoint, credentials_of_double()):
        path = large_path(daemon, tmp_path, 8 * PART)
        process = server.user.start("push", "team", daemon.full(path), "--json")
        wait_until(lambda: parts_sent(double), "no part is sent", seconds=TIME_LIMIT)
        server.server.kill()
        with server.server as again:
            server.proxy.lead_to(again.port)
            stdout, stderr = process.communicate(TIME_LIMIT)
            done = parse(process.wait(TIME_LIMIT), stdout, stderr)
            assert (done.status, done.states()) == (0, {path: "pushed"}), stderr
            assert parts_sent(double) == list(range(1, 10)), "each part once"
            assert server.substitutes(path)
            assert not double.uploads


def test_parts_of_a_killed_client_go_when_its_session_is_over(
    direct: Past, daemon: Lab, bucket: Bucket, tmp_path: Path
) -> None:
    """The next start sees it, of whichever server of the bucket: nothing but the bucket remembers uploads."""
    path = large_path(daemon, tmp_path, 40 * PART)
    process = direct.user.start("push", "team", daemon.full(path), "--json")
    wait_until(lambda: "/parts?upload=" in direct.server.output(), "no URL is asked for", seconds=TIME_LIMIT)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(TIME_LIMIT)
    assert open_uploads(bucket), "the push was cut"
    direct.server.kill()
    with direct.server:
        pass
    assert open_uploads(bucket), "its session lives for a day"
    catalog = tmp_path / "server" / "state" / "catalog.sqlite"
    with closing(sqlite3.connect(catalog)) as opened, opened:
        assert opened.execute("update sessions set seen_s = seen_s - 90000 where ended_s is null").rowcount
    with direct.server as again:
        again.until(lambda: not open_uploads(bucket))
    assert not [key for key in bucket.all_keys() if "/.p" in key]


def open_uploads(bucket: Bucket) -> list[str]:
    """Names of uploads that were neither completed nor aborted."""

    async def names() -> list[str]:
        settings = bucket.settings("kept")
        assert settings.credentials is not None
        multipart = Multipart(settings, settings.credentials)
        try:
            return [one.name for one in await multipart.open_uploads("")]
        finally:
            await multipart.aclose()

    return asyncio.run(names())
