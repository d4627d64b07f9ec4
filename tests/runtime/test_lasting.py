"""Work in the background outlives errors that it does not expect."""

import asyncio
import logging

import pytest

from harmonia_py.runtime import lasting as module
from harmonia_py.runtime.lasting import lasting


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST_SECONDS", 0.0)


async def test_an_error_that_was_not_expected_is_logged_with_its_trace_and_the_work_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Eviction had ended without a word when the files that it deleted from were closed; nothing was evicted again."""
    goes_on, begun = asyncio.Event(), 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise RuntimeError("cannot schedule new futures after shutdown")
        goes_on.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(lasting(work))
    async with asyncio.timeout(30):
        await goes_on.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 2
    assert all(record.exc_info is not None and record.exc_info[0] is RuntimeError for record in said)
    assert begun == 3


async def test_work_that_ends_by_itself_has_ended() -> None:
    async with asyncio.timeout(30):
        await lasting(lambda: asyncio.sleep(0))
