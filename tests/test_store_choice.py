"""Which way to the store is chosen, and what is said when it is not the usual one."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harmonia_py.config import Config
from harmonia_py.store_choice import Way, choose_store


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {"real_nix_store": str(tmp_path / "nix/store"), "daemon_socket": str(tmp_path / "socket")}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "nix/var/nix/db/db.sqlite"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        yield sock


@pytest.mark.usefixtures("daemon", "database")
def test_the_daemon_is_asked_where_one_answers(settings: dict[str, Any]) -> None:
    choice = choose_store(Config(**settings))
    assert (choice.way, choice.warning) == (Way.DAEMON, None)
    assert choice.words == f"through the nix-daemon at {settings['daemon_socket']}"


@pytest.mark.usefixtures("daemon")
def test_a_database_that_was_named_is_read_although_a_daemon_answers(settings: dict[str, Any], tmp_path: Path) -> None:
    """The daemon is that of another store."""
    choice = choose_store(Config(**settings, nix_db_path=str(tmp_path / "other.sqlite")))
    assert (choice.way, choice.warning) == (Way.DATABASE, None)
    assert choice.words == f"through the database {tmp_path / 'other.sqlite'}"


def test_the_database_is_read_where_no_daemon_answers(settings: dict[str, Any], database: Path) -> None:
    choice = choose_store(Config(**settings))
    assert (choice.way, choice.warning) == (Way.DATABASE, None)
    assert choice.words == (f"through the database {database}, as no nix-daemon answers (no such file or directory)")


def test_a_daemon_that_is_down_is_waited_for_where_there_is_nothing_else(
    settings: dict[str, Any], daemon: socket.socket
) -> None:
    daemon.close()
    choice = choose_store(Config(**settings))
    assert choice.way is Way.DAEMON
    assert choice.warning == (
        f"the nix-daemon at {settings['daemon_socket']} does not answer (connection refused); "
        "requests get 503 until it does"
    )


def test_where_there_is_no_nix_that_is_said_in_one_line(settings: dict[str, Any]) -> None:
    choice = choose_store(Config(**settings))
    assert choice.way is Way.NONE
    assert choice.warning is not None
    assert choice.warning.startswith("no Nix here: ")
    assert "\n" not in choice.warning


def test_a_socket_whose_name_is_too_long_is_no_time_out(settings: dict[str, Any], database: Path) -> None:
    choice = choose_store(Config(**settings | {"daemon_socket": "/" + "x" * 200}))
    assert choice.way is Way.DATABASE
    assert choice.words == f"through the database {database}, as no nix-daemon answers (af_unix path too long)"
