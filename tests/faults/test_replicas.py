"""Three servers behind nginx that share a database and a storage, while everything that can fail does."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from postgresql import PostgreSQL
from replica_clients import Clients
from replicas import Replicas, proxy
from s3_double import Fault, S3Double, Weather, credentials_file

COUNT: Final = 3
# `make test-replicas` takes more.
SECONDS: Final = float(os.environ.get("HARMONIA_PY_REPLICAS_SECONDS", "15"))
SEED: Final = int(os.environ.get("HARMONIA_PY_SEED", "0"))
SUBSTITUTED: Final = 8
# A small part of what is done on a machine that other work keeps busy: less, and nothing of this was tried.
PUSHED_A_SECOND: Final = 1 / 15
READ_A_SECOND: Final = 1.0
REVOKED_A_SECOND: Final = 1 / 15
BEAT_SECONDS: Final = 2.5
# Of a replica, whose database or bucket may not answer just then.
STARTS: Final = 10
# Of requests to the bucket; all of them fail, for one beat.
SHARES: Final = (0.0, 0.1, 0.1, 0.3, 1.0)

pytestmark = [pytest.mark.postgresql, pytest.mark.timeout(2 * SECONDS + 240)]


@pytest.fixture
def database() -> Iterator[PostgreSQL]:
    with PostgreSQL(durable=True) as server:
        yield server


@pytest.fixture(params=["directory", "bucket"])
def double(request: pytest.FixtureRequest) -> Iterator[S3Double | None]:
    """The bucket that the replicas share; None when it is a directory."""
    if request.param == "directory":
        yield None
        return
    with S3Double() as double:
        yield double


def settings(root: Path, double: S3Double | None) -> dict[str, Any]:
    if double is None:
        return {"workers": 1}
    storage = {"url": double.url("kept"), "credentials_file": str(credentials_file(root))}
    return {"workers": 1, "storage": storage}


def test_no_byte_is_wrong_or_lost_whatever_is_killed_restarted_or_answers_wrongly(
    tmp_path: Path, daemon: Lab, database: PostgreSQL, double: S3Double | None
) -> None:
    chance = random.Random(SEED)
    with (
        Replicas(tmp_path, daemon, database.database(), COUNT, settings(tmp_path, double)) as replicas,
        proxy(tmp_path / "proxy", replicas.servers) as port,
    ):
        replicas.make_tokens()
        clients = Clients(replicas, daemon, port, SEED)
        with clients.at_work():
            end, beat = time.monotonic() + SECONDS, 0
            while time.monotonic() < end and not clients.faults:
                time.sleep(BEAT_SECONDS)
                if double is not None:
                    double.weather = Weather(random.Random(chance.random()), chance.choice(SHARES))
                disturb(replicas, database, beat, chance)
                beat += 1
            if double is not None:
                double.weather = None
        print(dict(clients.counts), None if double is None else dict(double.faults))
        assert clients.faults == []
        assert clients.counts["pushed"] >= SECONDS * PUSHED_A_SECOND
        assert clients.counts["read"] >= SECONDS * READ_A_SECOND
        assert clients.counts["revoked"] >= SECONDS * REVOKED_A_SECOND
        assert double is None or all(double.faults[fault] for fault in (Fault.ERROR, Fault.SLOW_DOWN, Fault.CUT))
        for number in range(COUNT):
            clients.read_all(number)
            some = chance.sample(sorted(clients.published), min(SUBSTITUTED, len(clients.published)))
            replicas.substitute(f"client-{number}", number, *some)
        assert clients.faults == []
        assert json.loads(replicas.command("fsck", "--hashes", "--json"))["faults"] == {}


def disturb(replicas: Replicas, database: PostgreSQL, beat: int, chance: random.Random) -> None:
    """Kill or restart one of all that hold the cache together."""
    if beat % 4 == 3:
        database.restart(chance.choice([signal.SIGQUIT, signal.SIGINT]))
    else:
        how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        replicas.restart(beat % COUNT, how, starts=STARTS)
