"""What doctor says of the files that are kept: here, of those that are made of chunks."""

import time
from pathlib import Path

from administering import Machine

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.chunks.work import LastLook
from harmonia_py.commands.doctor import kept
from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.config.settings import Config
from harmonia_py.wiring.catalog import open_catalog


async def chunks_after(tmp_path: Path, look: LastLook) -> Finding | None:
    """What is said of chunks once the job has noted that."""
    config = Config(state_directory=str(tmp_path / "server" / "state"))
    Machine(tmp_path).do("cache", "create", "team")
    catalog = await open_catalog(config)
    await catalog.chunk_work.note(look)
    await catalog.aclose()
    found = [one for one in await kept.look_at(config) if one.check == "chunks"]
    assert len(found) < 2
    return found[0] if found else None


def ago(seconds: float) -> Timestamp:
    return Timestamp(int(time.time() - seconds))


async def test_nothing_is_said_of_chunks_where_there_are_none(tmp_path: Path) -> None:
    assert await chunks_after(tmp_path, LastLook(ended=ago(9))) is None


async def test_paths_that_wait_are_counted(tmp_path: Path) -> None:
    finding = await chunks_after(tmp_path, LastLook(ended=ago(9), waiting=7))
    assert finding is not None
    assert (finding.verdict.value, finding.what.endswith("; 7 paths wait")) == ("ok", True)


async def test_a_job_that_does_not_end_is_a_warning(tmp_path: Path) -> None:
    finding = await chunks_after(tmp_path, LastLook(ended=ago(7200), waiting=7))
    assert finding is not None
    assert finding.verdict.value == "warning"
    assert "; the job last ended at 20" in finding.what


async def test_a_job_that_failed_is_a_warning_that_says_why(tmp_path: Path) -> None:
    finding = await chunks_after(tmp_path, LastLook(ended=ago(700), failed=ago(60), error="no room"))
    assert finding is not None
    assert finding.verdict.value == "warning"
    assert finding.what.endswith(": no room")


async def test_a_job_that_failed_and_went_on_is_good(tmp_path: Path) -> None:
    finding = await chunks_after(tmp_path, LastLook(ended=ago(60), failed=ago(700), error="no room"))
    assert finding is not None
    assert finding.verdict.value == "ok"
