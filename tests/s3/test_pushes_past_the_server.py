"""Large files that our client sends straight to the bucket, with no byte of them through the server."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import TIME_LIMIT
from lab import Lab
from pushing_past import SIZE, Past, large_path, past
from s3_double import Fault, S3Double
from s3_double import environment as credentials_of_double
from seaweed import Bucket, environment

pytestmark = pytest.mark.s3


@pytest.fixture
def direct(daemon: Lab, bucket: Bucket, tmp_path: Path) -> Iterator[Past]:
    yield from past(tmp_path, daemon, bucket.url("kept"), bucket.endpoint, environment())


@pytest.fixture
def double() -> Iterator[S3Double]:
    with S3Double() as double:
        yield double


@pytest.fixture
def doubled(daemon: Lab, double: S3Double, tmp_path: Path) -> Iterator[Past]:
    yield from past(tmp_path, daemon, double.url("kept"), double.endpoint, credentials_of_double())


def test_a_large_file_goes_to_the_bucket_and_not_through_the_server(
    direct: Past, daemon: Lab, bucket: Bucket, tmp_path: Path
) -> None:
    path = large_path(daemon, tmp_path)
    before = direct.proxy.sent
    done = direct.user.push(path)
    assert (done.status, done.states()) == (0, {path: "pushed"}), done.stderr
    assert done.summary["sent_bytes"] >= SIZE
    assert direct.proxy.sent - before < 50_000, "questions and a narinfo"
    assert direct.substitutes(path)
    assert [key for key in bucket.all_keys() if "/." in key] == ["kept/.catalog"], "nothing pending is left"


def test_the_bucket_is_shown_no_token_and_its_url_overwrites_nothing(
    doubled: Past, daemon: Lab, double: S3Double, tmp_path: Path
) -> None:
    path = large_path(daemon, tmp_path)
    assert doubled.user.push(path).status == 0
    (sent,) = [line for line in double.seen if line.startswith("PUT kept/.pending/")]
    assert "X-Amz-Signature=" in sent
    url = f"{double.endpoint}/double/{sent.removeprefix('PUT ')}"
    with urllib.request.urlopen(urllib.request.Request(url, b"something else", method="PUT"), timeout=30) as answer:
        assert answer.status == 200, "the URL is good still"
    assert doubled.substitutes(path)


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.NO_BUCKET, Fault.FOREIGN_404])
def test_a_client_that_does_not_reach_the_bucket_sends_to_the_server(
    doubled: Past, daemon: Lab, double: S3Double, tmp_path: Path, fault: Fault
) -> None:
    double.fault("PUT", ".pending/", fault, times=1000)
    path = large_path(daemon, tmp_path)
    done = doubled.user.push(path)
    assert (done.status, done.states()) == (0, {path: "pushed"}), done.stderr
    assert doubled.proxy.sent > SIZE
    assert doubled.substitutes(path)


def test_an_upload_that_is_lost_or_changed_on_its_way_goes_to_the_server(
    doubled: Past, daemon: Lab, double: S3Double, tmp_path: Path
) -> None:
    double.fault("PUT", ".pending/", Fault.ERROR_IN_200)
    path = large_path(daemon, tmp_path)
    done = doubled.user.push(path)
    assert (done.status, done.states()) == (0, {path: "pushed"}), done.stderr
    assert doubled.substitutes(path)


def test_a_client_without_room_for_a_temporary_file_sends_to_the_server(
    direct: Past, daemon: Lab, tmp_path: Path
) -> None:
    path = large_path(daemon, tmp_path)
    command = ["bash", "-c", f'ulimit -f {SIZE // 2048}; exec "$@"', "-", sys.executable, "-m", "harmonia_py.cli"]
    done = subprocess.run(
        [*command, "push", "team", daemon.full(path)],
        cwd=direct.user.home,
        env=direct.user.env,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert direct.proxy.sent > SIZE
    assert direct.substitutes(path)


def test_all_goes_to_a_server_that_is_told_to_take_it_itself(daemon: Lab, bucket: Bucket, tmp_path: Path) -> None:
    path = large_path(daemon, tmp_path)
    for server in past(
        tmp_path, daemon, bucket.url("kept"), bucket.endpoint, environment(), redirect_uploads_from="never"
    ):
        assert server.user.push(path).status == 0
        assert server.proxy.sent > SIZE
        assert server.substitutes(path)
