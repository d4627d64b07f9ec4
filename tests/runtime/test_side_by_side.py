"""One thing for each of many values: how many at a time, and which error."""

import asyncio

import pytest

from harmonia_py.errors import StorageError
from harmonia_py.runtime.side_by_side import side_by_side


async def test_as_many_as_may_be_are_under_way_and_each_value_comes_once() -> None:
    under_way, most, seen = 0, 0, []

    async def do(value: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        seen.append(value)

    await side_by_side(do, range(20), at_once=3)
    assert (most, sorted(seen)) == (3, list(range(20)))
    await side_by_side(do, [], at_once=3)


async def test_an_error_is_raised_as_it_is_and_ends_the_others() -> None:
    """What was raised was a group, for which there is no status: a storage that cannot be read has one."""
    ended = []

    async def do(value: int) -> None:
        if value == 2:
            raise StorageError("not now")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(value)

    with pytest.raises(StorageError, match="not now"):
        await side_by_side(do, range(9), at_once=3)
    assert sorted(ended) == [0, 1]


async def test_what_is_no_error_of_ours_stays_what_it_is() -> None:
    async def do(_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await side_by_side(do, [1], at_once=1)
    assert caught.group_contains(ZeroDivisionError)
