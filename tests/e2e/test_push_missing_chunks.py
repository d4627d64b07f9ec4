"""`harmonia-py push` to a cache in chunks: of a rebuild only what is new in it is sent."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from clients import TIME_LIMIT, Team
from lab import Lab
from rebuilds import contents_of, rebuild

from harmonia_py.nix.store_path import StorePath

CONTENTS: Final = contents_of(900_000)
CHUNKS: Final = {"deduplicate": "chunks", "deduplicate_after": 0}


@pytest.fixture
def chunks(tmp_path: Path, daemon: Lab) -> Iterator[Team]:
    with Team(tmp_path, daemon, {"caches": {"team": CHUNKS}}) as team:
        yield team


def make_chunks(team: Team) -> None:
    """Have the server make chunks of all NARs: it does so when it starts, and once a minute."""
    before = set(team.directory("recipes").glob("*"))
    team.server.stop()
    team.server.__enter__()
    until = time.monotonic() + TIME_LIMIT
    while set(team.directory("recipes").glob("*")) == before:
        assert time.monotonic() < until
        time.sleep(0.05)


def substituted(team: Team, lab: Lab, path: StorePath) -> bytes:
    client = lab.client(f"client-{path.hash_part}")
    url = f"http://x:{team.read}@127.0.0.1:{team.server.port}/team"
    client.nix_store("--realise", lab.full(path), "--option", "substituters", url, "--option", "require-sigs", "false")
    return client.run("nix-store", "--dump", str(client.real(path))).stdout


def test_of_a_rebuild_only_what_is_new_is_sent(chunks: Team, daemon: Lab) -> None:
    first = chunks.user("ci", chunks.push).push(rebuild(daemon, CONTENTS, "one"))
    assert first.status == 0, first.stderr
    assert first.summary["saved_bytes"] == 0
    make_chunks(chunks)
    path = rebuild(daemon, CONTENTS, "two")
    second = chunks.user("ci-again", chunks.push).push(path)
    assert second.status == 0, second.stderr
    assert second.states()[path] == "pushed"
    assert second.paths[path]["sent_bytes"] < first.summary["sent_bytes"] / 20
    assert second.paths[path]["saved_bytes"] > 1_000_000
    assert substituted(chunks, daemon, path) == daemon.dump(path)
