"""The counters of the use of each cache, as workers make them for the caches of a real catalog."""

from pathlib import Path

from catalogs import NOW, opened_catalog

from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.metrics.board import Board
from harmonia_py.metrics.cache_labels import MOST_NAMED, OTHERS, names_in
from harmonia_py.metrics.families.caches import CACHES_PUSHED_NARS
from harmonia_py.metrics.totals import read_figures
from harmonia_py.wiring.usage import Usages


async def test_two_workers_name_the_same_caches_whichever_they_are_asked_for_first(tmp_path: Path) -> None:
    """Each worker had named those that it was asked for first: four of them, four hundred."""
    board = Board(2)
    async with opened_catalog("sqlite", tmp_path) as catalog:
        rows = [
            await catalog.caches.create(CacheName(f"n{number}"), CacheSettings(), declared=False, now=NOW)
            for number in range(MOST_NAMED + 5)
        ]
        for worker, order in ((0, rows), (1, rows[::-1])):
            usages = Usages(board.claim(worker))
            for row in order:
                (await usages.of(row, catalog.caches)).pushed_nars.add()
            assert await usages.of(rows[0], catalog.caches) is await usages.of(rows[0], catalog.caches)
    figures = read_figures(board)
    assert names_in(figures) == {DEFAULT, *(row.name for row in rows[: MOST_NAMED - 1])}
    assert figures[CACHES_PUSHED_NARS.series("n0")] == [2]
    assert figures[CACHES_PUSHED_NARS.series(OTHERS)] == [2 * (len(rows) - MOST_NAMED + 1)]
