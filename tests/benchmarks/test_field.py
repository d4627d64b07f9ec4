from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import BenchmarkError
from benchmarks.bench import Bench, Case, OutOfTimeError, Sample
from benchmarks.closure import Closure
from benchmarks.field import whole_section
from benchmarks.field_sections import Run
from benchmarks.field_table import GOALS, HARMONIA, NGINX, OURS, WHY, format_field

COLD = Case("field", "cold narinfos, 16 connections", "s")
WARM = Case("field", "NARs as they are, warm, 4 connections", "s")
MANY = Case("field", "warm narinfos, 32 connections", "requests/s", more_is_better=True)


def samples(case: Case, server: str, *values: float) -> list[Sample]:
    return [Sample(case, server, value) for value in values]


def cell(title: str, *rounds: list[Sample]) -> str:
    titles, _, line = format_field([sample for each in rounds for sample in each]).splitlines()
    texts = ([text.strip() for text in row.strip("|").split("|")] for row in (titles, line))
    cells: dict[str, str] = dict(zip(*texts, strict=True))
    return cells[title]


def test_a_goal_is_held_against_the_other_server_in_each_round() -> None:
    ours, harmonia = samples(COLD, OURS, 0.1, 0.2, 9, 0.2), samples(COLD, HARMONIA, 0.2, 0.1, 10, 0.3)
    assert cell("met", ours, harmonia) == "3 of 4"


def test_of_four_rounds_three_have_to_meet_a_goal() -> None:
    ours, harmonia = samples(COLD, OURS, 0.1, 0.2, 0.3, 0.5), samples(COLD, HARMONIA, 0.2, 0.2, 0.2, 0.1)
    assert cell("met", ours, harmonia) == "2 of 4, by 1.50"


def test_of_several_goals_each_has_to_be_met() -> None:
    ours, harmonia = samples(WARM, OURS, 1), samples(WARM, HARMONIA, 1)
    assert cell("met", ours, harmonia, samples(WARM, NGINX, 0.8)) == "1 of 1"
    assert cell("met", ours, harmonia, samples(WARM, NGINX, 0.5)) == "0 of 1, by 1.33"


def test_where_more_is_better_the_goal_is_at_least_so_much() -> None:
    assert cell("met", samples(MANY, OURS, 130), samples(MANY, NGINX, 100)) == "1 of 1"
    assert cell("met", samples(MANY, OURS, 60), samples(MANY, NGINX, 100)) == "0 of 1, by 2.00"


def test_the_reason_stands_beside_a_goal_that_is_missed_alone() -> None:
    why = "why no further"
    assert cell(why, samples(COLD, OURS, 2), samples(COLD, HARMONIA, 1)) == WHY[COLD.what]
    assert cell(why, samples(COLD, OURS, 1), samples(COLD, HARMONIA, 1)) == ""


def test_a_round_that_has_ended_early_is_left_out() -> None:
    assert cell("met", samples(COLD, OURS, 1, 1), samples(COLD, HARMONIA, 1)) == "1 of 1"


def test_a_server_that_is_not_there_is_no_goal() -> None:
    assert cell("met", samples(COLD, OURS, 1.0)) == ""


def test_every_goal_has_a_reason_to_show_when_it_is_missed() -> None:
    assert set(WHY) == set(GOALS)


@pytest.fixture
def run() -> Iterator[Run]:
    built = Closure(directory=Path("/nowhere"), paths=(), tiny=(), big="", small_files="", nar_size=0)
    with ThreadPoolExecutor(1) as executor:
        yield Run(Bench(built, [], workers=1, rounds=1, seconds=0, executor=executor, say=print), lambda _: [])


def test_of_a_section_in_which_a_server_fails_no_sample_counts(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A download that one server cut ended the whole run."""

    def section(_: Run) -> Iterator[Sample]:
        yield Sample(COLD, OURS, 1)
        raise BenchmarkError("the server cut the transfer")

    assert whole_section(section, run) == []
    assert "cut the transfer" in capsys.readouterr().out


def test_a_section_that_has_no_time_left_ends_the_run(run: Run) -> None:
    def section(run: Run) -> Iterator[Sample]:
        yield Sample(COLD, OURS, 1)
        run.bench.check_time()

    with pytest.raises(OutOfTimeError):
        whole_section(section, run)
