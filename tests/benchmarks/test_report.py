import csv
import io
from pathlib import Path
from xml.etree import ElementTree as ET

from benchmarks import chart, report
from benchmarks.bench import Case, Goal, Sample
from benchmarks.debian import Package, acyclic_references

SPEED = Case("big", "speed", "MB/s", more_is_better=True, goal=Goal(0.9))
TIME = Case("none", "time", "s", goal=Goal(2.0))
START = Case("start", "start", "s", goal=Goal(0.5, None))


def samples(case: Case, **values: list[float]) -> list[Sample]:
    return [Sample(case, name.replace("_", "-"), value) for name, each in values.items() for value in each]


def test_a_ratio_is_that_of_the_medians() -> None:
    _, row = report.rows(samples(TIME, nginx=[1, 2, 9], harmonia_py=[3, 3, 50]))
    assert (row.median, row.ratio, row.met) == (3, 1.5, True)


def test_a_goal_is_met_in_the_direction_that_is_better() -> None:
    table = report.rows(samples(SPEED, nginx=[100], harmonia_py=[80]) + samples(START, nginx=[0.1], harmonia_py=[0.4]))
    assert [row.met for row in table] == [None, False, None, True]


def test_a_goal_without_its_reference_is_neither_met_nor_missed() -> None:
    (row,) = report.rows(samples(TIME, harmonia_py=[1]))
    assert (row.ratio, row.met) == (None, None)


def test_the_table_the_csv_and_the_chart_hold_what_was_measured() -> None:
    table = report.rows(samples(TIME, nginx=[1.0], harmonia_py=[0.5]) + samples(START, harmonia_py=[0.4]))
    assert "≤ 2 x nginx" in report.format_table(table)
    lines = list(csv.DictReader(io.StringIO(report.format_csv(table))))
    assert [line["server"] for line in lines] == ["nginx", "harmonia-py", "harmonia-py"]
    picture = "".join(ET.fromstring(chart.format_svg(table, "a <machine>; another")).itertext())
    assert "2.00 x (0.5 s)" in picture
    assert "a <machine>" in picture


def package(name: str, *dependencies: str, provides: tuple[str, ...] = ()) -> Package:
    return Package(Path(name), name, "1", tuple(tuple(group.split("|")) for group in dependencies), provides)


def test_cycles_of_dependencies_are_broken_the_same_way_every_time() -> None:
    packages = [
        package("a", "b"),
        package("b", "c|x", "missing"),
        package("c", "a", "mail"),
        package("d", provides=("mail",)),
    ]
    assert acyclic_references(packages) == {"d": [], "c": ["d"], "b": ["c"], "a": ["b"]}
