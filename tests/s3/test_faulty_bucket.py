"""The real server and stock Nix over a bucket that fails: what is retried is right in the end, and `/ready` is true."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from administering import Machine
from lab import Lab
from s3_double import Fault, S3Double, credentials_file
from server import Server, settings_of

pytestmark = pytest.mark.s3


@pytest.fixture
def team(daemon: Lab, double: S3Double, tmp_path: Path) -> Iterator[Server]:
    settings = settings_of(daemon) | {
        "workers": 1,
        "caches": {"team": {"public": True}},
        "cache": {"directory": str(tmp_path / "cache")},
        "storage": {"url": double.url("kept"), "credentials_file": str(credentials_file(tmp_path))},
    }
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def test_clients_push_and_substitute_while_every_kind_of_request_fails_now_and_then(
    team: Server, double: S3Double, daemon: Lab, machine: Machine
) -> None:
    public = machine.do("key", "create", "team", "--name", "team-1").strip()
    token = machine.do("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
    for fault in (Fault.ERROR, Fault.LOST, Fault.SLOW_DOWN):
        double.fault("PUT", "kept/nar/", fault)
    url = f"http://x:{token}@127.0.0.1:{team.port}/team/push?compression=zstd"
    daemon.nix("copy", "--to", url, daemon.full(daemon.closure.top))
    assert not double.faults_left()

    for fault in (Fault.ERROR, Fault.CUT, Fault.LOST, Fault.SLOW_DOWN):
        double.fault("GET", "kept/nar/", fault)
    client = daemon.client("client")
    options = ("--option", "substituters", f"{team.url}/team", "--option", "trusted-public-keys", public)
    client.nix_store("--realise", daemon.full(daemon.closure.top), "--max-jobs", "0", *options)
    assert not double.faults_left()
    for path in (daemon.closure.top, daemon.closure.input2, daemon.closure.input0):
        assert client.run("nix-store", "--dump", str(client.real(path))).stdout == daemon.dump(path)


def test_a_bucket_that_is_gone_is_an_error_and_no_absence_and_no_path_is_hidden_for_it(
    team: Server, double: S3Double, daemon: Lab, machine: Machine
) -> None:
    token = machine.do("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
    url = f"http://x:{token}@127.0.0.1:{team.port}/team/push?compression=zstd"
    daemon.nix("copy", "--to", url, daemon.full(daemon.closure.top))
    narinfo = f"/team/{daemon.closure.top.hash_part}.narinfo"
    found = re.search(rb"^URL: (.*)$", team.get(narinfo).body, re.MULTILINE)
    assert found is not None
    nar = f"/team/{found[1].decode()}"
    assert team.get(nar).status == 200
    double.fault("GET", "kept/nar/", Fault.NO_BUCKET, times=1)
    assert team.get(nar).status == 503
    assert team.get(nar).status == 200
    assert team.get(narinfo).status == 200
    assert "hidden" not in team.output()


def test_ready_says_whether_the_bucket_takes_files(team: Server, double: S3Double) -> None:
    double.fault("PUT", ".probe", Fault.ERROR, times=3)
    answer = team.get("/ready")
    assert (answer.status, answer.body) == (503, b"bucket\n")
    assert "the bucket answers 500" in team.output()
    assert team.get("/ready").status == 200


def test_what_was_deleted_by_others_is_found_by_fsck_and_healed_by_the_next_push(
    team: Server, double: S3Double, daemon: Lab, machine: Machine, tmp_path: Path
) -> None:
    token = machine.do("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
    url = f"http://x:{token}@127.0.0.1:{team.port}/team/push?compression=zstd"
    daemon.nix("copy", "--to", url, daemon.full(daemon.closure.input0))
    lost = next(key for key in double.objects if key.startswith("kept/nar/"))
    data = double.objects.pop(lost).data
    config = ("--config", str(tmp_path / "server" / "harmonia.toml"))
    done = machine.run("fsck", "--json", *config)
    assert done.returncode == 1
    assert lost.removeprefix("kept/") in done.stdout
    assert team.get(f"/team/{daemon.closure.input0.hash_part}.narinfo").status == 200, "it was only looked at"
    machine.do("fsck", "--repair", *config)
    deadline = time.monotonic() + 30
    # Ready answers are good until the next look at what other processes have changed, which is once a second.
    while team.get(f"/team/{daemon.closure.input0.hash_part}.narinfo").status != 404:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    daemon.nix("copy", "--to", url.replace("/push?", "/push/again?"), daemon.full(daemon.closure.input0))
    assert team.get(f"/team/{daemon.closure.input0.hash_part}.narinfo").status == 200
    assert double.objects[lost].data == data


def test_what_is_collected_leaves_the_bucket(
    team: Server, double: S3Double, daemon: Lab, machine: Machine, tmp_path: Path
) -> None:
    machine.do("cache", "create", "old")
    token = machine.do("token", "create", "ci", "--cache", "old", "--allow", "read,push").strip()
    url = f"http://x:{token}@127.0.0.1:{team.port}/old/push?compression=zstd"
    daemon.nix("copy", "--to", url, daemon.full(daemon.closure.top))
    assert sum(key.startswith("kept/nar/") for key in double.objects) == 3
    team.stop()
    machine.do("cache", "delete", "old", "--yes")
    machine.do("gc", "--config", str(tmp_path / "server" / "harmonia.toml"))
    assert [key for key in double.objects if key.startswith("kept/nar/")] == []
    assert [key for key in double.objects if key.endswith(".narinfo")] == []
