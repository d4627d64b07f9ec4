"""How much of a download is at hand: the bounds that memory has."""

from harmonia_py.chunks.chunked_files import IN_MEMORY, OPEN_FILES
from harmonia_py.chunks.windows import Span, merged, next_span

MIB = 1024 * 1024


def test_the_windows_of_any_number_of_downloads_stay_within_the_budget() -> None:
    """Each download that began took a share as if it were alone with those before: fifty had three times the budget."""
    held = 0
    sizes = []
    for _ in range(1000):
        sizes.append(IN_MEMORY.of(held))
        held += sizes[-1]
        if sizes[-1] == IN_MEMORY.least:
            break
    assert sizes[:4] == [4 * MIB] * 4
    assert IN_MEMORY.budget is not None
    assert held <= IN_MEMORY.budget
    assert IN_MEMORY.of(10 * IN_MEMORY.budget) == IN_MEMORY.least
    assert OPEN_FILES.of(held) == OPEN_FILES.most


def test_a_window_ends_with_the_segment_that_fills_it() -> None:
    ends = [200, 1150, 1160]
    assert next_span(ends, 100, 1160, 1000) == Span(first=0, last=1, start=100, stop=950, size=1050)
    assert next_span(ends, 1150, 1160, 1000) == Span(first=2, last=2, start=0, stop=10, size=10)
    assert next_span(ends, 150, 1155, 10_000) == Span(first=0, last=2, start=150, stop=5, size=1005)
    assert next_span(ends, 250, 260, 1000) == Span(first=1, last=1, start=50, stop=60, size=10)


def test_ranges_that_touch_are_one() -> None:
    assert merged([(30, 40), (0, 10), (10, 25), (0, 5)]) == [(0, 25), (30, 40)]
