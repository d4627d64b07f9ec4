"""Two servers with catalogs of their own on one prefix of a bucket: one of them is told so, and changes nothing."""

import json
import re
import secrets
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tomli_w
from administering import Machine
from lab import Lab
from s3_double import Fault, Object, S3Double, credentials_file
from seaweed import Bucket
from server import Server, settings_of

from harmonia_py.storage.s3.stores import question_store

pytestmark = pytest.mark.s3

MARKER = "kept/.catalog"
REFUSAL = "/kept belongs to another catalog"


class Place:
    """A server with a state directory of its own, the commands on that, and the cache `team`."""

    def __init__(self, root: Path, lab: Lab, bucket: S3Double | Bucket, prefix: str = "kept") -> None:
        root.mkdir(exist_ok=True)
        storage = {"url": bucket.url(prefix), "credentials_file": str(credentials_file(root))}
        self.settings = settings_of(lab) | {"caches": {"team": {"public": True}}, "storage": storage}
        self.lab = lab
        self.machine = Machine(root)
        self.server = Server(root, lab.env, self.settings)
        self.config = ("--config", str(root / "server" / "harmonia.toml"))
        self.catalog = root / "server" / "state" / "catalog.sqlite"

    def push(self) -> int:
        """Push; the exit status of Nix."""
        token = self.machine.do(
            "token", "create", secrets.token_hex(4), "--cache", "team", "--allow", "read,push"
        ).strip()
        url = f"http://x:{token}@127.0.0.1:{self.server.port}/team/push?compression=zstd"
        return self.lab.run("nix", "copy", "--to", url, self.lab.full(self.lab.closure.top), check=False).returncode

    def told_of_bucket(self) -> str:
        """What doctor says of it."""
        report = json.loads(self.machine.run("doctor", "--json", *self.config).stdout)
        return " ".join(one["what"] for one in report["findings"] if one["check"] == "bucket")

    def status(self) -> int:
        return self.server.get(f"/team/{self.lab.closure.top.hash_part}.narinfo").status


MakePlace = Callable[[str], Place]


@pytest.fixture
def make_place(daemon: Lab, double: S3Double, tmp_path: Path) -> MakePlace:
    return lambda name: Place(tmp_path / name, daemon, double)


def contents(bucket: S3Double | Bucket) -> dict[str, bytes]:
    store = question_store(bucket.settings())
    keys = [found["path"] for page in store.list() for found in page]
    return {key: bytes(store.get(key).bytes()) for key in keys if not key.endswith(".probe")}


@pytest.mark.parametrize("bucket_name", ["double", "bucket"])
def test_the_second_catalog_does_not_start_and_changes_nothing(
    request: pytest.FixtureRequest, daemon: Lab, tmp_path: Path, bucket_name: str
) -> None:
    """Both were begun on an empty bucket, and each collected what the other had been sent."""
    bucket = request.getfixturevalue(bucket_name)
    first, second = (Place(tmp_path / name, daemon, bucket) for name in ("first", "second"))
    with first.server:
        assert first.push() == 0
        first.server.until(lambda: sum(key.endswith(".narinfo") for key in contents(bucket)) == 3)
        before = contents(bucket)
        with pytest.raises(AssertionError, match=REFUSAL):
            second.server.__enter__()
        assert second.server.stop() == 1
        assert f"delete the object {MARKER}" in second.server.output()
        for command in (("gc",), ("fsck", "--repair"), ("fsck",), ("fsck", "--rebuild")):
            done = second.machine.run(*command, *second.config)
            assert done.returncode == 1
            assert REFUSAL in " ".join((done.stdout + done.stderr).split())
        assert contents(bucket) == before
        assert first.status() == 200
        assert first.machine.lines("fsck", "--json", *first.config)[-1]["faults"] == {}


def test_a_prefix_inside_of_another_keeps_its_files(daemon: Lab, double: S3Double, tmp_path: Path) -> None:
    """`fsck --repair` of the outer one had the files of the inner one deleted: its catalog has no rows of them."""
    outer, inner = (Place(tmp_path / name, daemon, double, name.strip("-")) for name in ("-", "kept"))
    with inner.server, outer.server:
        assert (inner.push(), outer.push()) == (0, 0)
        outer.server.until(lambda: sum(key.endswith(".narinfo") for key in list(double.objects)) == 6)
    for one in double.objects.values():
        one.changed -= timedelta(hours=2)
    double.objects["nar/stray.nar.zst"] = Object(b"", {}, datetime.now(UTC) - timedelta(hours=2))
    *found, _ = outer.machine.lines("fsck", "--repair", "--json", *outer.config)
    assert [one["key"] for one in found] == ["nar/stray.nar.zst"]
    outer.machine.do("gc", *outer.config)
    assert "nar/stray.nar.zst" not in double.objects
    *_, sums = inner.machine.lines("fsck", "--hashes", "--json", *inner.config)
    assert (sums["files"], sums["faults"]) == (3, {})
    assert outer.machine.lines("fsck", "--hashes", "--json", *outer.config)[-1]["files"] == 3


def test_a_server_that_was_started_while_the_bucket_was_away_refuses_until_it_is_its_own(
    daemon: Lab, make_place: MakePlace, double: S3Double, tmp_path: Path
) -> None:
    first, second = make_place("first"), make_place("second")
    with first.server:
        assert first.push() == 0
    before = contents(double)
    second.server = Server(tmp_path / "second", daemon.env, second.settings | {"workers": 1})
    double.fault("GET", MARKER, Fault.ERROR, times=3)  # the question of the start, which is made again twice
    with second.server as server:
        assert "(InternalError); until that is known, nothing is written" in server.output()
        server.until(
            lambda: f"cannot collect what caches do not need any more: s3://double{REFUSAL}" in server.output()
        )
        assert second.push() != 0
        assert second.status() == 404
        answer = server.get("/ready")
        assert (answer.status, answer.body) == (503, b"bucket\n")
        assert contents(double) == before
        del double.objects[MARKER]  # as the message says
        second.machine.do("fsck", "--rebuild", *second.config)
        assert server.get("/ready").status == 200
        assert second.push() == 0
        assert second.status() == 200
    with pytest.raises(AssertionError, match=REFUSAL):
        first.server.__enter__()


def test_a_server_stops_while_the_bucket_is_silent(make_place: MakePlace, double: S3Double) -> None:
    """It waited for an answer for half a minute, and was killed."""
    double.fault("GET", MARKER, Fault.SILENT, times=100)
    with make_place("first").server as server:
        server.until(lambda: sum(MARKER in line for line in double.seen) > 1)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 5.0


def test_a_bucket_of_an_earlier_release_is_taken_by_its_catalog(make_place: MakePlace, double: S3Double) -> None:
    first, second = make_place("first"), make_place("second")
    with first.server:
        assert first.push() == 0
    text = double.objects.pop(MARKER).data
    with first.server as server:
        server.until(lambda: MARKER in double.objects)
        assert double.objects[MARKER].data == text
        assert re.fullmatch(rb"[0-9a-f]{32}\n", text)
    with pytest.raises(AssertionError, match=REFUSAL):
        second.server.__enter__()
    assert f"belongs to the catalog here, {text.decode().strip()}" in first.told_of_bucket()
    assert REFUSAL in second.told_of_bucket()
    with first.server:
        assert first.status() == 200


def test_a_catalog_that_does_not_fit_the_files_takes_no_prefix(make_place: MakePlace, double: S3Double) -> None:
    """A wrong state directory took the bucket of an earlier release, and the right server did not start any more."""
    first, second = make_place("first"), make_place("second")
    with first.server:
        assert first.push() == 0
        first.server.until(lambda: sum(key.endswith(".narinfo") for key in list(double.objects)) == 3)
    del double.objects[MARKER]
    before = contents(double)
    with second.server as server:
        server.until(lambda: "the catalog is new, or older than the files" in server.output())
        assert second.push() != 0
        answer = server.get("/ready")
        assert (answer.status, answer.body) == (503, b"bucket\n")
    assert "the catalog is not that of the files" in second.machine.refusal("gc", *second.config)
    assert contents(double) == before
    with first.server as server:
        server.until(lambda: MARKER in double.objects)
        assert first.push() == 0
        assert server.get("/ready").status == 200
    with pytest.raises(AssertionError, match=REFUSAL):
        second.server.__enter__()


def test_a_catalog_that_was_lost_is_made_anew_in_its_place(make_place: MakePlace, double: S3Double) -> None:
    """An administrator had to find the object `.catalog` and delete it first."""
    first, second = make_place("first"), make_place("second")
    with first.server:
        assert first.push() == 0
        first.server.until(lambda: sum(key.endswith(".narinfo") for key in list(double.objects)) == 3)
    assert "--take-over goes with --rebuild" in second.machine.run("fsck", "--take-over", *second.config).stderr
    done = second.machine.run("fsck", "--rebuild", "--take-over", "--json", *second.config)
    assert done.returncode == 0
    assert json.loads(done.stdout)["pushed"]["paths"] == 3
    assert "belonged to another catalog, and belongs to this one from now on" in done.stderr
    with second.server:
        assert second.status() == 200
        assert second.push() == 0
    with pytest.raises(AssertionError, match=REFUSAL):
        first.server.__enter__()


def test_a_copied_catalog_is_the_same_one(make_place: MakePlace, double: S3Double) -> None:
    first, second = make_place("first"), make_place("second")
    with first.server:
        assert first.push() == 0
    second.catalog.parent.mkdir(parents=True)
    first.machine.do("catalog", "copy", str(first.catalog), str(second.catalog))
    text = double.objects[MARKER].data
    with second.server as server:
        assert second.status() == 200
        assert second.push() == 0
        assert server.get("/ready").status == 200
    second.machine.do("gc", *second.config)
    assert double.objects[MARKER].data == text
    assert second.machine.lines("fsck", "--json", *second.config)[-1]["faults"] == {}


def test_each_worker_asks_once_for_the_owner(make_place: MakePlace, double: S3Double) -> None:
    place = make_place("first")
    with place.server as server:
        assert server.get("/ready").status == 200
    double.seen.clear()
    with place.server:
        place.server.until(lambda: any("list-type" in line for line in double.seen))
    assert [line for line in double.seen if MARKER in line] == 2 * [f"GET {MARKER}"]


def test_a_reload_that_would_open_another_catalog_is_refused_by_every_worker(
    daemon: Lab, make_place: MakePlace, tmp_path: Path
) -> None:
    """One worker refused it and the others did not: clients were answered by one configuration or the other."""
    first, second = make_place("first"), make_place("second")
    with first.server:
        assert first.push() == 0
    without_caches = {key: value for key, value in second.settings.items() if key != "caches"} | {"priority": 30}
    with Server(tmp_path / "second", daemon.env, without_caches) as server:
        (server.root / "harmonia.toml").write_text(tomli_w.dumps(second.settings | {"priority": 7}))
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: server.output().count(f"not reloaded: s3://double{REFUSAL}") == 2)
        for _ in range(8):
            assert b"Priority: 30\n" in server.get("/nix-cache-info").body
            assert server.get("/team/nix-cache-info").status == 404


def test_files_of_pushes_that_no_narinfo_names_stay_where_a_wrong_catalog_comes_first(
    make_place: MakePlace, double: S3Double
) -> None:
    """While a bucket is copied there are NARs before there is a narinfo: a new catalog took all of them for garbage."""
    first, second = make_place("first"), make_place("second")
    with first.server:
        assert first.push() == 0
        first.server.until(lambda: any(key.endswith(".narinfo") for key in contents(double)))
    for key in [MARKER, *(key for key in contents(double) if key.endswith(".narinfo"))]:
        del double.objects[key]
    before = contents(double)
    with second.server as server:
        server.until(lambda: "has files and belongs to no catalog" in server.output())
        assert second.push() != 0
    done = second.machine.run("gc", *second.config)
    assert done.returncode == 1
    assert contents(double) == before
