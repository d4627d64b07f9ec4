"""A reload that is refused, though the configuration can be read, changes nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import tomli_w
from lab import Lab
from reloading import reload
from server import Server, settings_of

# The library is an extra.
WITHOUT_LIBRARY: Final = """if True:
    import sys
    sys.modules["pyfastcdc"] = None
    from harmonia_py.cli import main
    sys.exit(main())
"""
REFUSED: Final = "error: not reloaded: deduplicate: pyfastcdc is not installed"


@pytest.fixture
def settings(daemon: Lab) -> dict[str, Any]:
    return settings_of(daemon) | {"compression": "none", "priority": 30, "caches": {"team": {"public": False}}}


@pytest.fixture
def wanted(settings: dict[str, Any]) -> dict[str, Any]:
    """Another configuration, which can be opened."""
    return settings | {"workers": 3, "priority": 7, "caches": {"team": {"public": True}, "new": {"public": True}}}


@pytest.fixture
def server(daemon: Lab, tmp_path: Path, settings: dict[str, Any], wanted: dict[str, Any]) -> Iterator[Server]:
    """One that has refused `wanted`, because of what a mirror needs."""
    with Server(tmp_path, daemon.env, settings, interpreter=(sys.executable, "-c", WITHOUT_LIBRARY)) as server:
        upstream = {"url": "http://127.0.0.1:9", "public_keys": []}
        refused = wanted | {"log_level": "error", "upstream": [upstream], "mirror": {"deduplicate": "chunks"}}
        (server.root / "harmonia.toml").write_text(tomli_w.dumps(refused))
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: REFUSED in server.output())
        yield server


def assert_as_before(server: Server) -> None:
    """Ask often enough for each worker to answer."""
    for _ in range(8):
        assert b"Priority: 30\n" in server.get("/nix-cache-info").body
        assert server.get("/team/nix-cache-info").status == 401
        assert server.get("/new/nix-cache-info").status == 401


def kill_workers(server: Server) -> None:
    before = server.processes()[1:]
    for process in before:
        os.kill(process, signal.SIGKILL)
    server.until(lambda: len(server.processes()) == 3 and not set(before) & set(server.processes()))


def test_caches_in_the_catalog_keep_their_settings(server: Server) -> None:
    """The caches that the file declared were in the catalog before anything else was opened: the cache was public."""
    assert_as_before(server)
    assert len(server.processes()) == 3, "as many workers as before"
    server.stop()
    assert "info: stopping" in server.output(), "the log has its level"


def test_workers_that_replace_others_begin_as_before(server: Server) -> None:
    """They began with what the others had refused, and ended at once, again and again."""
    kill_workers(server)
    assert_as_before(server)
    assert "exit status" not in server.output()


def test_the_next_reload_is_taken_and_workers_that_replace_others_have_it(
    server: Server, wanted: dict[str, Any]
) -> None:
    wanted["workers"] = 2
    reload(server, wanted)
    kill_workers(server)
    for _ in range(8):
        assert b"Priority: 7\n" in server.get("/nix-cache-info").body
        assert server.get("/team/nix-cache-info").status == 200
        assert server.get("/new/nix-cache-info").status == 200
    assert server.output().count("not reloaded") == 1


@pytest.mark.parametrize(
    "table",
    [
        {"caches": {"team": {"deduplicate": "chunks"}}},
        {"mirror": {"deduplicate": "chunks"}, "upstream": [{"url": "http://127.0.0.1:9", "public_keys": []}]},
    ],
    ids=["caches", "mirror"],
)
def test_check_config_looks_for_the_library_of_chunks(tmp_path: Path, table: dict[str, Any]) -> None:
    """Of a cache it said that all was well, and the server refused that."""
    file = tmp_path / "harmonia.toml"
    file.write_text(tomli_w.dumps(table))
    command = (sys.executable, "-c", WITHOUT_LIBRARY, "check-config", "--config", str(file))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "deduplicate: pyfastcdc is not installed" in done.stderr


def test_workers_that_replace_those_that_have_refused_begin_as_before(
    daemon: Lab, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The supervisor took what it could read: workers that it started then ended at once, and nothing served."""
    del settings["caches"]
    (tmp_path / "file").touch()
    with Server(tmp_path, daemon.env, settings) as server:
        no_directory = {"state_directory": str(tmp_path / "file" / "state"), "caches": {"team": {}}, "priority": 7}
        (server.root / "harmonia.toml").write_text(tomli_w.dumps(settings | no_directory))
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: server.output().count("not reloaded: ") == 2)
        kill_workers(server)
        server.until(lambda: server.output().count("a worker begins as before the last reload") == 2)
        for _ in range(8):
            assert b"Priority: 30\n" in server.get("/nix-cache-info").body
        reload(server, settings | {"priority": 9})
        kill_workers(server)
        for _ in range(8):
            assert b"Priority: 9\n" in server.get("/nix-cache-info").body
        assert "exit status" not in server.output()


@pytest.mark.parametrize("killed", [False, True])
def test_a_reload_is_tried_again_until_it_can_be_opened(
    daemon: Lab, tmp_path: Path, settings: dict[str, Any], *, killed: bool
) -> None:
    """What failed for a moment was refused until the next SIGHUP: a token that was taken away was good until then."""
    del settings["caches"]
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with Server(tmp_path, daemon.env, settings) as server:
        wanted = {"state_directory": str(in_the_way / "state"), "caches": {"team": {}}, "priority": 7}
        (server.root / "harmonia.toml").write_text(tomli_w.dumps(settings | wanted))
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: server.output().count("not reloaded: ") == 2)
        if killed:
            kill_workers(server)
            server.until(lambda: server.output().count("a worker begins as before the last reload") == 2)
        in_the_way.unlink()
        server.until(lambda: server.output().count("info: reloaded") == 2)
        for _ in range(8):
            assert b"Priority: 7\n" in server.get("/nix-cache-info").body
        kill_workers(server)
        for _ in range(8):
            assert b"Priority: 7\n" in server.get("/nix-cache-info").body
        assert killed or server.output().count("not reloaded: ") == 2, "each worker says it once"


def test_workers_begin_without_the_catalog_that_a_refused_reload_has_begun(
    daemon: Lab, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The catalog was there by then, and could not be used: no worker served any more."""
    del settings["caches"]
    state = tmp_path / "state"
    state.mkdir()
    (state / "pushed").touch()
    with Server(tmp_path, daemon.env, settings | {"state_directory": str(state)}) as server:
        wanted = settings | {"state_directory": str(state), "caches": {"team": {"public": True}}, "priority": 7}
        (server.root / "harmonia.toml").write_text(tomli_w.dumps(wanted))
        server.process.send_signal(signal.SIGHUP)
        server.until(lambda: server.output().count("not reloaded: ") == 2)
        assert (state / "catalog.sqlite").exists()
        kill_workers(server)
        server.until(lambda: server.output().count("a worker begins without a catalog") == 2)
        for _ in range(8):
            assert b"Priority: 30\n" in server.get("/nix-cache-info").body
        (state / "pushed").unlink()
        server.until(lambda: server.output().count("info: reloaded") == 2)
        for _ in range(8):
            assert server.get("/team/nix-cache-info").status == 200
