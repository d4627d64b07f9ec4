"""Servers that share a database in PostgreSQL and a storage are one cache."""

import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import prefork
import pytest
from lab import Lab
from postgresql import PostgreSQL, shared
from replicas import Replicas, proxy
from s3_double import Fault, S3Double, Weather, credentials_file
from server import PROJECT, Server

from harmonia_py.database import migrations

pytestmark = pytest.mark.postgresql


@pytest.fixture
def replicas(tmp_path: Path, daemon: Lab) -> Iterator[Replicas]:
    with Replicas(tmp_path, daemon, shared().database()) as replicas:
        replicas.make_tokens()
        yield replicas


def soon(condition: Callable[[], bool]) -> None:
    """Ask until the condition holds: within a second, or what becomes of that on a busy machine."""
    end = time.monotonic() + 5.0
    while True:
        is_late = time.monotonic() > end
        if condition():
            return
        assert not is_late


def test_what_is_pushed_through_one_replica_is_substituted_through_the_other(replicas: Replicas, daemon: Lab) -> None:
    top = daemon.closure.top
    assert replicas.get(1, f"/{top.hash_part}.narinfo").status == 404, "the answer is ready, and no longer right soon"
    replicas.copy(0, top)
    soon(lambda: replicas.get(1, f"/{top.hash_part}.narinfo").status == 200)
    replicas.substitute("laptop", 1, top)


def test_a_token_that_is_revoked_is_refused_by_every_replica_soon(replicas: Replicas, daemon: Lab) -> None:
    for number in (0, 1):
        assert replicas.get(number, "/nix-cache-info").status == 200
    replicas.command("token", "revoke", "laptop")
    soon(lambda: all(replicas.get(number, "/nix-cache-info").status == 401 for number in (0, 1)))


def test_one_of_all_replicas_looks_after_what_is_kept(replicas: Replicas) -> None:
    def housekeepers() -> list[tuple[int]]:
        held = """
            select pid from pg_locks where locktype = 'advisory' and objid = 2 and granted
                and database = (select oid from pg_database where datname = current_database())
        """
        return shared().execute(held, replicas.database)

    def the_one() -> int:
        end = time.monotonic() + 30.0
        while len(found := housekeepers()) != 1:
            assert time.monotonic() < end
        return found[0][0]

    seen = {the_one()}
    for server in replicas.servers:
        server.stop()
        seen.add(the_one())
        server.__enter__()
        seen.add(the_one())
    assert len(seen) > 1, "one of those that were stopped was it"


def test_a_replica_says_whether_its_database_answers(tmp_path: Path, daemon: Lab) -> None:
    with PostgreSQL() as database, Replicas(tmp_path, daemon, database.database(), 1) as replicas:
        replicas.make_tokens()
        server = replicas.servers[0]
        assert server.get("/ready").status == 200
        database.stop()
        answer = server.get("/ready")
        assert (answer.status, answer.body) == (503, b"catalog\n")
        assert server.get("/health").status == 200, "it needs no restart"
        database.start()
        wait_for_ready(server, 200, b"OK\n")
        replicas.copy(0, daemon.closure.top)
        replicas.substitute("laptop", 0, daemon.closure.top)


def test_the_password_of_the_database_comes_from_a_file_and_is_in_no_output(tmp_path: Path, daemon: Lab) -> None:
    with PostgreSQL(password="the-secret") as database:
        url = database.database()
        file = tmp_path / "password"
        file.write_text("the-secret\n")
        file.chmod(0o600)
        settings = {"database": {"url": url, "password_file": str(file)}}
        with Replicas(tmp_path, daemon, url, 1, settings) as replicas:
            replicas.make_tokens()
            assert replicas.get(0, "/nix-cache-info").status == 200
            file.write_text("another-secret\n")
            config = str(tmp_path / "machine-0" / "server" / "harmonia.toml")
            refused = prefork.run("token", "list", "--config", config, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
            assert refused.returncode == 1
            assert "password authentication failed" in refused.stderr
            output = refused.stderr + refused.stdout + replicas.servers[0].output()
            assert "the-secret" not in output
            assert "another-secret" not in output


def test_behind_the_proxy_of_the_page_one_replica_may_end(replicas: Replicas, daemon: Lab, tmp_path: Path) -> None:
    top = daemon.closure.top
    with proxy(tmp_path / "proxy", replicas.servers) as port:
        daemon.run("nix", "copy", "--to", f"http://x:{replicas.push}@127.0.0.1:{port}/team/push", daemon.full(top))
        replicas.servers[0].stop()
        client = daemon.client("client")
        substituter = f"http://x:{replicas.read}@127.0.0.1:{port}/team"
        options = ("--option", "require-sigs", "false", "--option", "substituters", substituter)
        client.run("nix-store", "--realise", daemon.full(top), *options)
        assert client.run("nix-store", "--dump", str(client.real(top))).stdout == daemon.dump(top)


def next_release(root: Path) -> tuple[str, ...]:
    """This program with one more migration, as the next release has it: what starts it."""
    folder = root / "next-release"
    shutil.copytree(PROJECT / "harmonia_py", folder / "harmonia_py", ignore=shutil.ignore_patterns("__pycache__"))
    newest, database = migrations.versions()[-1], folder / "harmonia_py" / "database"
    (database / "schema" / f"{newest + 1:04}.sql").write_text(
        "create table of_the_next_release (name text primary key);"
        "alter table objects add column of_the_next_release integer"
    )
    text = (database / "migrations.py").read_text()
    assert f"_NEWEST: Final = {newest}\n" in text
    (database / "migrations.py").write_text(
        text.replace(f"_NEWEST: Final = {newest}\n", f"_NEWEST: Final = {newest + 1}\n")
    )
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); from harmonia_py.cli import main; sys.exit(main())"
    return (sys.executable, "-c", program)


def test_replicas_are_replaced_one_by_one_by_a_release_with_another_schema(
    replicas: Replicas, daemon: Lab, tmp_path: Path
) -> None:
    version = "select max(version) from migrations"
    before = shared().execute(version, replicas.database)[0][0]
    replicas.copy(0, daemon.closure.input0)
    replicas.restart(1, signal.SIGTERM, next_release(tmp_path))
    assert shared().execute(version, replicas.database) == [(before + 1,)]
    assert [replicas.servers[number].get("/ready").status for number in (0, 1)] == [200, 200]

    file = tmp_path / "through-the-next-release"
    file.write_text("data")
    path = daemon.add(file)
    replicas.copy(0, daemon.closure.top)
    replicas.copy(1, path)
    for number in (0, 1):
        replicas.substitute(f"client-{number}", number, daemon.closure.top, path)

    replicas.restart(0, signal.SIGKILL)
    assert replicas.servers[0].get("/ready").status == 200, "of the release before it may be started again"
    replicas.command("token", "revoke", "laptop")
    soon(lambda: all(replicas.get(number, "/nix-cache-info").status == 401 for number in (0, 1)))
    assert json.loads(replicas.command("fsck", "--hashes", "--json"))["faults"] == {}


def test_ready_names_the_database_and_the_bucket_while_they_do_not_answer(tmp_path: Path, daemon: Lab) -> None:
    with PostgreSQL() as database, S3Double() as double:
        storage = {"url": double.url("kept"), "credentials_file": str(credentials_file(tmp_path))}
        with Replicas(tmp_path, daemon, database.database(), 1, {"workers": 1, "storage": storage}) as replicas:
            server = replicas.servers[0]
            assert server.get("/ready").status == 200
            double.weather = Weather(random.Random(1), 1.0, (Fault.SLOW_DOWN,))
            wait_for_ready(server, 503, b"bucket\n")
            database.stop()
            wait_for_ready(server, 503, b"catalog\nbucket\n")
            double.weather = None
            wait_for_ready(server, 503, b"catalog\n")
            database.start()
            wait_for_ready(server, 200, b"OK\n")


def wait_for_ready(server: Server, status: int, body: bytes) -> None:
    """Wait until `/ready` says so: what it has found out about the bucket holds for ten seconds."""

    def says_so() -> bool:
        found = server.get("/ready")
        return (found.status, found.body) == (status, body)

    server.until(says_so)
