"""Servers that keep what they compress and mirror in a bucket as well."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from administering import Machine
from lab import Lab
from nginx import Nginx
from realising import assert_has_the_closure, realise
from s3_double import S3Double, environment
from server import Server, settings_of

pytestmark = pytest.mark.s3


@pytest.fixture
def bucket() -> Iterator[S3Double]:
    with S3Double() as double:
        yield double


def everything_in(bucket: S3Double) -> dict[str, Any]:
    return {"url": bucket.url("kept"), "keep_in_bucket": "everything"}


def kept(bucket: S3Double) -> list[str]:
    return sorted(key for key in list(bucket.objects) if ".nar" in key)


def on_disk(root: Path) -> list[Path]:
    return list((root / "server").rglob("*.nar*"))


def test_what_is_compressed_is_in_the_bucket_and_made_once(
    daemon: Lab, bucket: S3Double, machine: Machine, tmp_path: Path
) -> None:
    key = daemon.secret_key("ours-1")
    top = daemon.full(daemon.closure.top)
    settings = settings_of(daemon, key) | {"storage": everything_in(bucket)}
    with Server(tmp_path, daemon.env | environment(), settings) as server:
        first = daemon.client("first")
        realise(first, server.url, key.public, top)
        assert_has_the_closure(first, daemon)
        server.until(lambda: len(kept(bucket)) == 3)
        assert on_disk(tmp_path) == []
        found = kept(bucket)
        assert len({name.rpartition("/")[0] for name in found}) == 1, "each directory has a part of its own"
        assert found[0].startswith("kept/.parts/")
    with Server(tmp_path, daemon.env | environment(), settings) as server:
        second = daemon.client("second")
        realise(second, server.url, key.public, top)
        assert_has_the_closure(second, daemon)
        assert server.figure('harmonia_compressed_downloads_total{result="hit"}') == 3
        assert server.figure('harmonia_compressed_downloads_total{result="miss"}') == 0
        server.until(lambda: server.figure("harmonia_cache_blobs") == 3)
        checked = machine.run("fsck", "--hashes", "--config", str(server.root / "harmonia.toml"))
        assert checked.returncode == 0, checked.stdout
    assert kept(bucket) == found


def test_what_is_mirrored_is_in_the_bucket_and_served_without_the_upstream(
    lab: Lab, bucket: S3Double, tmp_path: Path
) -> None:
    theirs, ours = lab.secret_key("upstream-1"), lab.secret_key("ours-1")
    top, directory = lab.full(lab.closure.top), tmp_path / "cache"
    lab.nix("copy", "--to", f"file://{directory}?compression=none&secret-key={theirs.secret_file}", top)
    with Nginx(tmp_path, directory) as upstream:
        settings = settings_of(lab, ours) | {
            "daemon_socket": str(lab.root / "nowhere.socket"),
            "real_nix_store": str(lab.root / "nowhere" / "store"),
            "upstream": [{"url": upstream.url, "name": "up", "public_keys": [theirs.public]}],
            "storage": everything_in(bucket) | {"hot_max_size": "1 GiB"},
        }
        with Server(tmp_path, lab.env | environment(), settings) as server:
            first = lab.client("first")
            realise(first, server.url, theirs.public, top)
            assert_has_the_closure(first, lab)
            server.until(lambda: len(kept(bucket)) == 3)
        assert on_disk(tmp_path) == []
        upstream.stop()
        with Server(tmp_path, lab.env | environment(), settings) as server:
            second = lab.client("second")
            realise(second, server.url, ours.public, top)
            assert_has_the_closure(second, lab)


def test_what_goes_for_want_of_room_goes_from_the_bucket(daemon: Lab, bucket: S3Double, tmp_path: Path) -> None:
    key = daemon.secret_key("ours-1")
    settings = settings_of(daemon, key) | {"storage": everything_in(bucket)}
    with Server(tmp_path, daemon.env | environment(), settings) as server:
        realise(daemon.client("first"), server.url, key.public, daemon.full(daemon.closure.top))
        server.until(lambda: len(kept(bucket)) == 3)
    settings["cache"] = {"max_size": 1}
    with Server(tmp_path, daemon.env | environment(), settings) as server:
        server.until(lambda: not kept(bucket))
        client = daemon.client("second")
        realise(client, server.url, key.public, daemon.full(daemon.closure.top))
        assert_has_the_closure(client, daemon)
