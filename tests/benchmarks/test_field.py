from benchmarks.bench import Case, Sample
from benchmarks.field import GOALS, HARMONIA, NGINX, OURS, format_field

COLD = Case("field", "cold narinfos, 16 connections", "s")
WARM = Case("field", "NARs as they are, warm, 4 connections", "s")
MANY = Case("field", "warm narinfos, 32 connections", "requests/s", more_is_better=True)


def last_cells(*samples: Sample) -> list[str]:
    return [line.split(" | ")[-1].removesuffix(" |") for line in format_field(samples).splitlines()[2:]]


def test_a_goal_is_held_against_the_median_of_the_other_server() -> None:
    values = [Sample(COLD, OURS, value) for value in (0.1, 0.2, 9)] + [Sample(COLD, HARMONIA, 0.2)]
    assert last_cells(*values) == ["yes"]
    assert last_cells(*values[1:]) == ["no, by 23.00"]


def test_of_several_goals_each_has_to_be_met() -> None:
    ours, harmonia = Sample(WARM, OURS, 1.0), Sample(WARM, HARMONIA, 1.0)
    assert last_cells(ours, harmonia, Sample(WARM, NGINX, 0.8)) == ["yes"]
    assert last_cells(ours, harmonia, Sample(WARM, NGINX, 0.5)) == ["no, by 1.33"]


def test_where_more_is_better_the_goal_is_at_least_so_much() -> None:
    assert last_cells(Sample(MANY, OURS, 130), Sample(MANY, NGINX, 100)) == ["yes"]
    assert last_cells(Sample(MANY, OURS, 60), Sample(MANY, NGINX, 100)) == ["no, by 2.00"]


def test_a_server_that_is_not_there_is_no_goal() -> None:
    assert last_cells(Sample(COLD, OURS, 1.0)) == [""]
    assert COLD.what in GOALS
