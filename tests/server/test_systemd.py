"""systemd hears what sd_notify(3) says it expects."""

import logging
import socket
import time
from pathlib import Path

import pytest

from harmonia_py.server import systemd


def test_without_a_service_manager_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(systemd.READY)
    assert caplog.records == []


@pytest.mark.parametrize("abstract", [False, True])
def test_the_lines_arrive_in_one_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + path if abstract else path)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + path if abstract else path)
        systemd.notify(systemd.READY, "STATUS=fine")
        assert manager.recv(4096) == b"READY=1\nSTATUS=fine"


def test_a_service_manager_that_is_gone_is_a_warning_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        systemd.notify(systemd.READY)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot notify the service manager: No such file or directory"
    ]


def test_a_reload_begins_with_the_time_that_systemd_compares() -> None:
    before = time.monotonic_ns() // 1000
    first, second = systemd.reloading()
    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000
