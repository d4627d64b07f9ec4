from pathlib import Path

from benchmarks.bench import Case, Sample
from benchmarks.growth import Grown, format_growth
from benchmarks.nix_store import NixStore
from harmonia_py.nix.store_path import StorePath

START = Case("growth", "start", "s")


def test_each_size_has_a_column_with_the_median() -> None:
    samples = [Sample(START, "1000", value) for value in (1.0, 2.0, 9.0)] + [Sample(START, "100000", 3.0)]
    lines = format_growth(samples, [1000, 100_000]).splitlines()
    assert lines[0] == "| what | unit | 1,000 paths | 100,000 paths |"
    assert lines[2] == "| start | s | 2 | 3 |"


def test_every_path_of_a_grown_store_has_a_name_of_its_own() -> None:
    names = list(Grown(NixStore(Path("/nowhere")), 100, Path("key")).names())
    assert len({StorePath.parse(name).hash_part for name in names}) == 100
