"""The text format, held against Prometheus's own parser."""

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from harmonia_py.errors import FormatError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Board, Metrics
from harmonia_py.metrics.exposition import format_metrics, parse_metrics
from harmonia_py.metrics.totals import read_figures


def theirs(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def ours(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in parse_metrics(text)}


@given(
    st.dictionaries(st.text(max_size=20), st.floats(0, 1e15), max_size=5),
    st.lists(st.floats(0, 40), max_size=5),
)
def test_what_is_written_is_read_by_prometheus(counts: dict[str, float], observations: list[float]) -> None:
    board = Board(1)
    metrics = board.claim(0)
    for name, count in counts.items():
        metrics.counter(families.upstreams.UPSTREAM_BYTES, name).add(count)
    histogram = metrics.histogram(families.http.HTTP_REQUEST_DURATION, "GET", "nar", "200")
    for one in observations:
        histogram.observe(one)
    text = format_metrics(read_figures(board))
    assert ours(text) == theirs(text)
    read = ours(text)
    for name, count in counts.items():
        assert read[families.upstreams.UPSTREAM_BYTES.name, frozenset({("upstream", name)})] == count
    labels = {("method", "GET"), ("path", "nar"), ("status", "200")}
    assert read[families.http.HTTP_REQUESTS.name, frozenset(labels)] == len(observations)
    all_of_them = (f"{families.http.HTTP_REQUEST_DURATION.name}_bucket", frozenset(labels | {("le", "+Inf")}))
    assert read.get(all_of_them, 0) == len(observations)


def test_requests_are_there_from_the_start_and_durations_with_the_first_of_their_kind() -> None:
    """Twelve lines of zeros for each of five hundred kinds of requests were nine tenths of the text: 646 kB."""
    metrics = Metrics.alone()
    asked = metrics.histogram(families.http.HTTP_REQUEST_DURATION, "GET", "nar", "200")
    metrics.histogram(families.http.HTTP_REQUEST_DURATION, "GET", "nar", "404")
    asked.observe(0.2)
    read = ours(format_metrics(read_figures(metrics.board)))
    status = {labels: value for (name, labels), value in read.items() if name == families.http.HTTP_REQUESTS.name}
    assert {dict(labels)["status"]: value for labels, value in status.items()} == {"200": 1, "404": 0}
    durations = [dict(labels) for name, labels in read if name.startswith(families.http.HTTP_REQUEST_DURATION.name)]
    assert {labels["status"] for labels in durations} == {"200"}
    assert len(durations) == len(families.http.HTTP_REQUEST_DURATION.buckets) + 3


@given(st.text(alphabet=string.printable, max_size=60))
def test_any_text_parses_or_raises_format_error(text: str) -> None:
    try:
        samples = parse_metrics(text)
    except FormatError:
        return
    assert all(isinstance(sample.value, float) for sample in samples)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a 1\n", 1),
        ("a +Inf\n", math.inf),
        ("a 1.5e3 1395066363000\n", 1500),
        ('a{b="c",} 0\n', 0),
        ("# a\n\na 2\n", 2),
    ],
)
def test_texts_of_other_exporters_are_read(text: str, value: float) -> None:
    assert [sample.value for sample in parse_metrics(text)] == [value]


@pytest.mark.parametrize("text", ["a", "a b", 'a{b="c} 1', "a{b=c} 1", "<html>"])
def test_what_is_no_metric_is_said_to_be_none(text: str) -> None:
    with pytest.raises(FormatError):
        parse_metrics(text)


def test_every_family_has_a_name_of_its_own_that_says_what_it_is() -> None:
    names = [family.name for family in families.FAMILIES]
    assert len(names) == len(set(names))
    for family in families.FAMILIES:
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.help.endswith(".")
        assert bool(family.buckets) == (family.kind == "histogram")


def test_a_series_names_every_label() -> None:
    with pytest.raises(ValueError, match="labels"):
        families.http.HTTP_SENT_BYTES.series()
