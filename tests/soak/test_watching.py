"""What counts as growth, and what the service may say."""

import pytest
from soak.journal import Line, is_wrong
from soak.policy import Doubt, Weather
from soak.samples import MEMORY_MARGIN, Sample, growth


def samples(*private: int, descriptors: int = 50) -> list[Sample]:
    return [Sample(float(at), 3, value, value, descriptors, 20) for at, value in enumerate(private)]


def test_what_moves_within_its_margin_is_flat() -> None:
    assert growth(samples(*[10, 30, 20] * 10)) == []


def test_a_start_does_not_count() -> None:
    assert growth(samples(*[0] * 10, *[10**9] * 20)) == []


def test_what_grows_is_named() -> None:
    (found,) = growth(samples(*range(0, 30 * 2 * MEMORY_MARGIN, 2 * MEMORY_MARGIN)))
    assert found.startswith("private memory: ")
    (found,) = growth(samples(*[0] * 20) + samples(*[0] * 10, descriptors=500))
    assert found.startswith("descriptors: 50 in the middle third, 500 in the last")


def test_too_few_samples_say_nothing() -> None:
    assert growth(samples(1, 2, 3)) != []


def said(text: str, *doubts: Doubt) -> bool:
    line = Line.parse(f"1000.5 host {text}")
    assert line is not None
    weather = Weather()
    for doubt in doubts:
        weather.begins(doubt, 990.0)[1] = 995.0
    return is_wrong(line, weather)


@pytest.mark.parametrize(
    "text",
    [
        "harmonia-py[1]: info: reloaded",
        'harmonia-py[1]: info: 127.0.0.1 "GET /error/traceback HTTP/1.1" 404 10 1.0ms',
        "systemd[1]: Started harmonia-py.service - Nix binary cache.",
    ],
)
def test_what_is_usual_may_be_said_at_any_time(text: str) -> None:
    assert not said(text)


@pytest.mark.parametrize(
    "text",
    [
        "harmonia-py[1]: Traceback (most recent call last):",
        "harmonia-py[1]: error: GET /x.narinfo: unforeseen",
        "harmonia-py[1]: error: worker 7 ended: signal 11; starting another",
        "harmonia-py[1]: warning: something else",
        "systemd[1]: harmonia-py.service: Main process exited, code=killed, status=9/KILL",
    ],
)
def test_what_must_not_happen_is_wrong_whatever_is_in_doubt(text: str) -> None:
    assert said(text, *Doubt)


def test_a_warning_is_right_when_there_is_a_reason_for_it() -> None:
    text = "harmonia-py[1]: warning: upstream 127.0.0.1:8081: no answer within 2.0 s"
    assert said(text)
    assert said(text, Doubt.DAEMON)
    assert not said(text, Doubt.NGINX)
    text = "harmonia-py[1]: error: GET /x.narinfo: cannot connect to the nix-daemon"
    assert said(text)
    assert not said(text, Doubt.DAEMON)
