"""Rows that the catalog gives a page at a time, one after the other."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

Row = TypeVar("Row")
Place = TypeVar("Place")

_SIZE: Final = 256

Page = Callable[[Place | None, int], Awaitable[Sequence[Row]]]
"""Gives up to so many rows, those that follow a place in their order; None is before the first."""


async def pages_of(
    page: Page[Place, Row], place: Callable[[Row], Place], *, size: int = _SIZE, after: Place | None = None
) -> AsyncIterator[Sequence[Row]]:
    """The rows of `page` behind `after`, up to `size` at a time; `place` tells where a row stands in their order."""
    while rows := await page(after, size):
        yield rows
        after = place(rows[-1])


async def rows_of(
    page: Page[Place, Row], place: Callable[[Row], Place], *, size: int = _SIZE, after: Place | None = None
) -> AsyncIterator[Row]:
    """All rows of `page` behind `after`, one after the other."""
    async for rows in pages_of(page, place, size=size, after=after):
        for row in rows:
            yield row


async def batches_of(rows: AsyncIterable[Row], size: int) -> AsyncIterator[list[Row]]:
    """All rows, so many at a time; the last batch may be shorter, and none is empty."""
    batch: list[Row] = []
    async for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def all_of(page: Page[Place, Row], place: Callable[[Row], Place]) -> list[Row]:
    """All rows of `page`, at once."""
    return [row async for row in rows_of(page, place)]
