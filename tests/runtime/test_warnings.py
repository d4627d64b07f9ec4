"""Warnings that are not repeated."""

import logging

import pytest

from harmonia_py.runtime.warnings import RareWarning


def test_what_goes_on_being_wrong_is_said_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr("harmonia_py.runtime.warnings.time.monotonic", lambda: now)
    warning = RareWarning(logging.getLogger("test"))
    for now in (1000.0, 1001.0, 1059.0, 1060.0, 1061.0):
        warning.say("the disk is full at %s", now)
    # Tasks of other tests that ended with an error say so when they are freed, by loggers of their own.
    assert [record.getMessage() for record in caplog.records if record.name == "test"] == [
        "the disk is full at 1000.0",
        "the disk is full at 1060.0",
    ]
