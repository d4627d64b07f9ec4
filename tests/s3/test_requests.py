"""How many requests to a bucket a push and a read cost: requests are what S3 bills (docs/explanation/scale.md)."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from administering import Machine
from lab import Lab
from s3_double import S3Double, environment
from server import Server, settings_of

pytestmark = pytest.mark.s3


@pytest.fixture
def team(daemon: Lab, double: S3Double, tmp_path: Path) -> Iterator[Server]:
    settings = settings_of(daemon) | {
        "workers": 1,
        "caches": {"team": {"public": True}},
        "storage": {"url": double.url(), "scrub_every": "never"},
    }
    with Server(tmp_path, daemon.env | environment(), settings) as server:
        yield server


def kinds(seen: list[str]) -> Counter[str]:
    """Requests by method and what they are about."""

    def kind(line: str) -> str:
        return re.sub(r"[0-9a-z]{52}|[0-9a-z]{32}", "#", line).split("&")[0]

    return Counter(map(kind, seen))


def test_a_path_costs_four_requests_to_push_and_one_to_read(
    team: Server, double: S3Double, daemon: Lab, machine: Machine
) -> None:
    token = machine.do("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
    before = len(double.seen)
    url = f"http://x:{token}@127.0.0.1:{team.port}/team/push?compression=zstd"
    daemon.nix("copy", "--to", url, daemon.full(daemon.closure.top))
    deadline = time.monotonic() + 30
    while sum(key.endswith(".narinfo") for key in double.objects) < 3:  # they follow what is published
        assert time.monotonic() < deadline
        time.sleep(0.02)
    narinfo = f"/team/{daemon.closure.top.hash_part}.narinfo"
    found = re.search(rb"^URL: (.*)$", team.get(narinfo).body, re.MULTILINE)
    assert found is not None
    for path in (daemon.closure.top, daemon.closure.input2, daemon.closure.input0):
        assert team.get(f"/team/{path.hash_part}.narinfo").status == 200
    reading = len(double.seen)
    assert team.get(f"/team/{found[1].decode()}").status == 200
    assert kinds(double.seen[reading:]) == {"GET nar/#.nar.zst": 1}
    pushing = kinds(double.seen[before:reading])
    assert pushing.pop("PUT team/nix-cache-info") <= 4, "once for each writer, and never again"
    # What is asked for before it is published is looked for, by a client that asks twice as well.
    assert 3 <= pushing.pop("GET nar/#.nar.zst") <= 6
    assert pushing == {"PUT nar/#.nar.zst": 3, "PUT team/#.ls": 3, "PUT team/#.narinfo": 3}
