"""The label `cache`: as many names as `/metrics` can bear, and one for all others."""

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Board
from harmonia_py.metrics.cache_labels import MOST_NAMED, OTHERS, CacheLabels, cache_of, names_in, without
from harmonia_py.metrics.families.caches import CACHES_KEPT_BYTES, CACHES_NARINFOS


def test_of_ten_thousand_caches_a_hundred_have_names_beside_that_at_the_root() -> None:
    labels = CacheLabels()
    given = [labels.label(name) for name in ("default", *(f"cache-{number}" for number in range(10_000)))]
    assert len(set(given)) == MOST_NAMED + 1
    assert given[:3] == ["default", "cache-0", "cache-1"]
    assert given[-1] == OTHERS
    assert labels.label("cache-0") == "cache-0", "it keeps its name"


def test_a_worker_that_takes_the_place_of_another_has_its_names() -> None:
    """With each worker that ended, a hundred names more could have come into its slot."""
    board = Board(1)
    first = board.claim(0)
    for number in range(2 * MOST_NAMED):
        first.counter(CACHES_NARINFOS, first.cache_labels.label(f"old-{number}"), "found")
    again = CacheLabels(board.read()[0].series)
    assert again.has("old-0")
    assert again.label("new") == OTHERS


def test_all_series_of_caches_fit_into_the_slot_of_a_worker() -> None:
    """A slot that is full takes no series of an upstream that a reload brings."""
    board = Board(1)
    metrics = board.claim(0)
    names = [f"{number:0>50}" for number in range(MOST_NAMED)] + [OTHERS]
    for family in families.FAMILIES:
        if "cache" in family.labels:
            for name in names:
                for result in ("found", "absent") if "result" in family.labels else ((),):
                    metrics.counter(family, name, *((result,) if result else ()))
    (reading,) = board.read()
    series = [one for one in reading.series if cache_of(one) is not None]
    assert len(series) == 6 * len(names)
    assert names_in(series) == set(names) - {OTHERS}


def test_series_of_some_caches_can_be_left_out() -> None:
    mine, theirs = (CACHES_KEPT_BYTES.series(name) for name in ("mine", "theirs"))
    other = families.http.HTTP_CONNECTIONS.series()
    figures = {mine: [1.0], theirs: [2.0], other: [3.0]}
    assert without(figures, {"theirs"}) == {mine: [1.0], other: [3.0]}
    assert without(figures, ()) == figures
