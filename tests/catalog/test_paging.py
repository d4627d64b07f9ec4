"""Rows that come a page at a time."""

from collections.abc import Sequence

from harmonia_py.catalog.paging import all_of, pages_of, rows_of


class Numbers:
    """Gives the numbers from 1 to 5, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int | None, int]] = []

    async def page(self, after: int | None, limit: int) -> Sequence[int]:
        self.asked.append((after, limit))
        return [number for number in range(1, 6) if number > (after or 0)][:limit]


async def test_each_page_begins_behind_the_last_row_of_the_one_before() -> None:
    numbers = Numbers()
    assert [page async for page in pages_of(numbers.page, lambda row: row, size=2)] == [[1, 2], [3, 4], [5]]
    assert numbers.asked == [(None, 2), (2, 2), (4, 2), (5, 2)]


async def test_rows_come_one_after_the_other_from_a_place_on() -> None:
    assert [row async for row in rows_of(Numbers().page, lambda row: row, size=2, after=2)] == [3, 4, 5]


async def test_all_rows_come_at_once() -> None:
    assert await all_of(Numbers().page, lambda row: row) == [1, 2, 3, 4, 5]
