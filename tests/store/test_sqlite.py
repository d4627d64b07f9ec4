import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from lab import Lab

from harmonia_py.errors import DaemonProtocolError, DaemonUnreachable
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.realisation import DrvOutput
from harmonia_py.nix.signing import Signature
from harmonia_py.nix.store_path import StorePath
from harmonia_py.store.sqlite import SqliteStore


@pytest.fixture
async def store(lab: Lab) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(lab.database, lab.store_dir)
    yield store
    await store.aclose()


async def is_there(store: SqliteStore, store_path: StorePath) -> bool:
    info = await store.path_info(store_path.hash_part)
    return info is not None and info.store_path == store_path


def change(lab: Lab, *statements: str) -> None:
    with closing(sqlite3.connect(lab.database)) as database, database:
        for statement in statements:
            database.execute(statement)


def open_files() -> list[str]:
    files = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            files.append(str(link.readlink()))
    return files


# What cannot be read


async def test_a_database_that_is_not_there_is_unreachable(tmp_path: Path, lab: Lab) -> None:
    store = SqliteStore(tmp_path / "nowhere" / "db.sqlite", lab.store_dir)
    with pytest.raises(DaemonUnreachable):
        await store.path_info(lab.closure.top.hash_part)
    await store.aclose()


async def test_a_file_that_is_no_database_is_a_protocol_error(lab: Lab, store: SqliteStore) -> None:
    lab.database.unlink()
    lab.database.write_bytes(b"this is no database" * 1000)
    with pytest.raises(DaemonProtocolError):
        await store.path_info(lab.closure.top.hash_part)


async def test_a_database_without_nix_tables_is_a_protocol_error(lab: Lab, store: SqliteStore) -> None:
    lab.database.unlink()
    change(lab, "create table Other (id integer)")
    with pytest.raises(DaemonProtocolError, match="no such table"):
        await store.path_info(lab.closure.top.hash_part)


async def test_another_schema_is_refused(lab: Lab, store: SqliteStore) -> None:
    lab.database.with_name("schema").write_text("11")
    with pytest.raises(DaemonProtocolError, match="schema is '11'"):
        await store.path_info(lab.closure.top.hash_part)
    lab.database.with_name("schema").write_text("10\n")
    assert await is_there(store, lab.closure.top)


@pytest.mark.parametrize(
    "assignment",
    ["hash = 'sha256:xyz'", "hash = 7", "narSize = -1", "narSize = 'big'", "deriver = '/elsewhere/x'",
     "ca = 'fixed:r:sha256:0'", "sigs = x'ff'", "hash = cast(x'ff' as text)"],
)  # fmt: skip
async def test_a_row_that_does_not_parse_is_a_protocol_error(lab: Lab, store: SqliteStore, assignment: str) -> None:
    change(lab, f"update ValidPaths set {assignment}")
    with pytest.raises(DaemonProtocolError, match="does not parse"):
        await store.path_info(lab.closure.top.hash_part)


async def test_a_content_address_of_a_kind_that_only_a_later_nix_knows_is_told_as_it_is(
    lab: Lab, store: SqliteStore
) -> None:
    change(lab, "update ValidPaths set ca = 'fixed:r:blake3:00'")
    info = await store.path_info(lab.closure.top.hash_part)
    assert info is not None
    assert str(info.ca) == "fixed:r:blake3:00"


async def test_what_nix_leaves_null_is_the_default(lab: Lab, store: SqliteStore) -> None:
    change(lab, "update ValidPaths set deriver = null, narSize = null, ultimate = null, sigs = null, ca = null")
    info = await store.path_info(lab.closure.top.hash_part)
    assert info is not None
    assert (info.deriver, info.nar_size, info.ultimate, info.signatures, info.ca) == (None, 0, False, (), None)


# What changes while we look


async def test_a_database_that_is_replaced_is_opened_again(lab: Lab, store: SqliteStore) -> None:
    assert await is_there(store, lab.closure.top)
    copy = lab.database.with_name("copy")
    shutil.copy(lab.database, copy)
    copy.replace(lab.database)
    change(lab, "delete from Refs", "delete from ValidPaths")
    assert not await is_there(store, lab.closure.top)


async def test_a_writer_in_the_middle_of_a_transaction_is_neither_seen_nor_waited_for(
    lab: Lab, store: SqliteStore
) -> None:
    with closing(sqlite3.connect(lab.database, isolation_level=None)) as writer:
        writer.execute("begin immediate")
        writer.execute("update ValidPaths set narSize = 1")
        info = await store.path_info(lab.closure.top.hash_part)
        assert info is not None
        assert info.nar_size > 1
        writer.execute("commit")
        info = await store.path_info(lab.closure.top.hash_part)
        assert info is not None
        assert info.nar_size == 1


_AS_NOBODY = """
import asyncio, json, os, sys
from pathlib import Path
from harmonia_py.errors import DaemonError
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.store.sqlite import SqliteStore

async def main(database, store_dir, hash_part):
    store = SqliteStore(Path(database), StoreDir.parse(store_dir))
    for line in sys.stdin:
        try:
            info = await store.path_info(HashPart.parse(hash_part))
            answer = info and info.nar_size
        except DaemonError as error:
            answer = type(error).__name__
        print(json.dumps(answer), flush=True)
    await store.aclose()

# Only now: Python itself may be where nobody else can read.
os.setgroups([]); os.setgid(65534); os.setuid(65534)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def public_lab() -> Iterator[Lab]:
    """A lab that other users can look into; `tmp_path` cannot be, nor anything below it."""
    with tempfile.TemporaryDirectory(prefix="harmonia-") as directory, Lab(Path(directory)) as lab:
        lab.root.chmod(0o755)
        lab.closure = lab.build()
        yield lab


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_an_unprivileged_reader_of_a_closed_database_sees_what_is_written_later(public_lab: Lab) -> None:
    """Up to Nix 2.21 the log is removed with the last user of the database, and then `mode=ro` fails for others."""
    lab = public_lab
    if lab.database.with_name("db.sqlite-wal").exists():
        pytest.skip("this Nix keeps the log")
    arguments = (str(lab.database), lab.store_dir, lab.closure.top.hash_part)
    with subprocess.Popen(
        [sys.executable, "-c", _AS_NOBODY, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def ask() -> str:
            assert reader.stdin is not None
            assert reader.stdout is not None
            reader.stdin.write("\n")
            reader.stdin.flush()
            return reader.stdout.readline().strip()

        assert int(ask()) > 1
        assert not lab.database.with_name("db.sqlite-wal").exists()
        change(lab, "update ValidPaths set narSize = 1")
        assert ask() == "1"
        with closing(sqlite3.connect(lab.database)) as writer, writer:
            writer.execute("update ValidPaths set narSize = 2")
            writer.commit()
            assert lab.database.with_name("db.sqlite-wal").stat().st_size > 0
            assert ask() == "2"
        assert ask() == "2"
        reader.stdin.close()
        assert reader.wait(20) == 0


# Realisations by the path of the derivation


async def test_realisations_of_nix_2_35_are_read_from_their_table(lab: Lab, store: SqliteStore) -> None:
    closure = lab.closure
    signature = Signature("key-1", bytes(64))
    columns = "id integer primary key, drvPath text, outputName text, outputPath text, signatures text"
    row = f"1, '{closure.derivation}', 'out', '{lab.full(closure.top)}', '{signature} garbage'"
    change(lab, f"create table BuildTraceV3 ({columns})", f"insert into BuildTraceV3 values ({row})")
    realisation = await store.realisation(DrvOutput.of(closure.derivation, "out"))
    assert realisation is not None
    assert realisation.out_path == closure.top
    assert realisation.signatures == (signature,)
    assert await store.realisation(DrvOutput.of(closure.derivation, "dev")) is None


async def test_a_store_without_realisations_has_none(lab: Lab, store: SqliteStore) -> None:
    change(lab, "drop table RealisationsRefs", "drop table Realisations")
    assert await store.realisation(DrvOutput(Hash.of(b""), "out")) is None


# Time and threads


async def test_a_statement_that_takes_too_long_is_ended(lab: Lab) -> None:
    rows = ", ".join(f"('/x/{number}', 'sha256:0', 0)" for number in range(20_000))
    change(lab, f"insert into ValidPaths (path, hash, registrationTime) values {rows}")
    store = SqliteStore(lab.database, lab.store_dir, request_timeout=0.2)
    endless = "select count(*) from ValidPaths a, ValidPaths b, ValidPaths c"
    with pytest.raises(DaemonUnreachable, match="interrupted"):
        await store._read(lambda: store._reader.query(endless), 0.2)
    assert await is_there(store, lab.closure.top)
    await store.aclose()


async def test_a_cancelled_request_gives_its_turn_back(lab: Lab, store: SqliteStore) -> None:
    for turns in range(50):
        task = asyncio.create_task(store.path_info(lab.closure.top.hash_part))
        for _ in range(turns % 5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await is_there(store, lab.closure.top)


async def test_closing_ends_the_thread_and_the_descriptors(lab: Lab) -> None:
    before = set(threading.enumerate())
    store = SqliteStore(lab.database, lab.store_dir)
    assert await is_there(store, lab.closure.top)
    # Not those of asyncio, which come with its first use of a thread.
    own = [one for one in threading.enumerate() if one not in before and not one.name.startswith("asyncio")]
    assert own
    await store.aclose()
    for thread in own:
        thread.join(30)
        assert not thread.is_alive()
    assert not any(str(lab.database) in target for target in open_files())
    with pytest.raises(DaemonUnreachable, match="closed"):
        await store.path_info(lab.closure.top.hash_part)
