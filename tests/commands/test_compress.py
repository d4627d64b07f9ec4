"""`harmonia-py compress` and `verify`, run as a person runs them, on the store of a real Nix."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import prefork
import pytest
import tomli_w
from lab import Closure, Lab
from server import Server, settings_of

import harmonia_py

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def run(daemon: Lab, tmp_path: Path, cache: Path) -> Run:
    file = tmp_path / "harmonia.toml"
    file.write_text(tomli_w.dumps(settings_of(daemon) | {"cache": {"directory": str(cache)}}))

    def run_verb(verb: str, *arguments: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
        done = prefork.run(verb, "--config", str(file), *arguments, cwd=tmp_path, env=daemon.env)
        assert done.returncode == status, done.stderr + done.stdout
        return done

    return run_verb


def closure_of(lab: Lab) -> Closure:
    assert lab.closure is not None
    return lab.closure


def kept(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.nar.zst"))


def test_a_closure_is_compressed_once(run: Run, daemon: Lab, cache: Path) -> None:
    closure = closure_of(daemon)
    assert "3 to compress" in run("compress", "--closure", daemon.full(closure.top)).stderr
    files = kept(cache)
    assert len(files) == 3
    for file in files:
        nar = subprocess.run(["zstd", "-dc", file], capture_output=True, check=True).stdout
        path = next(path for path in (closure.top, closure.input0, closure.input2) if path.hash_part in file.name)
        assert nar == daemon.dump(path)
    assert "0 to compress" in run("compress", "--closure", daemon.full(closure.top)).stderr


def test_one_path_is_compressed_alone_and_may_be_named_by_a_link(
    run: Run, daemon: Lab, cache: Path, tmp_path: Path
) -> None:
    closure = closure_of(daemon)
    link = tmp_path / "result"
    link.symlink_to(daemon.full(closure.top))
    run("compress", str(link))
    run("compress", closure.input0, f"{daemon.full(closure.input1)}/foo")
    assert len(kept(cache)) == 3


def test_everything_is_compressed(run: Run, daemon: Lab, cache: Path) -> None:
    run("compress", "--all")
    assert len(kept(cache)) == len(daemon.nix("path-info", "--all").split())


def test_what_is_no_store_path_is_said(run: Run, daemon: Lab) -> None:
    assert "/etc/passwd" in run("compress", "/etc/passwd", status=1).stderr
    absent = "0" * 32 + "-absent"
    assert "not valid" in run("compress", f"{daemon.store_dir}/{absent}", status=1).stderr
    assert "--all" in run("compress", status=2).stderr


def test_a_served_narinfo_knows_the_file_that_was_made_ahead(
    run: Run, daemon: Lab, cache: Path, tmp_path: Path
) -> None:
    closure = closure_of(daemon)
    run("compress", daemon.full(closure.top))
    settings = settings_of(daemon) | {"cache": {"directory": str(cache)}}
    with Server(tmp_path, daemon.env, settings) as server:
        narinfo = server.get(f"/{closure.top.hash_part}.narinfo").body.decode()
    assert f"FileSize: {kept(cache)[0].stat().st_size}\n" in narinfo


def test_rotten_files_are_found_and_removed_and_made_again(run: Run, daemon: Lab, cache: Path) -> None:
    run("compress", "--closure", daemon.full(closure_of(daemon).top))
    assert run("verify").stdout == "3 kept files, 0 rotten and removed\n"
    rotten, shortened, _ = kept(cache)
    data = bytearray(rotten.read_bytes())
    data[len(data) // 2] ^= 1
    times = rotten.stat()
    with rotten.open("r+b") as stream:
        stream.write(data)
    os.utime(rotten, ns=(times.st_atime_ns, times.st_mtime_ns))
    report = json.loads(run("verify", "--json", status=1).stdout)
    assert [one["key"] for one in report["rotten"]] == [rotten.name]
    assert report["files"] == 3
    assert not rotten.exists()
    os.truncate(shortened, shortened.stat().st_size - 1)
    assert "was cut" in run("verify", status=1).stdout
    assert "to compress" in run("compress", "--closure", daemon.full(closure_of(daemon).top)).stderr
    assert "0 rotten" in run("verify").stdout
    assert len(kept(cache)) == 3


def test_what_others_have_below_the_directory_is_left_alone(run: Run, daemon: Lab, cache: Path) -> None:
    """`verify` deleted the program of the service: the one file unpacks itself below the cache directory."""
    run("compress", daemon.full(closure_of(daemon).input0))
    theirs = [cache / "program" / "harmonia_py" / "start.py", cache / "program" / "with spaces.txt"]
    for file in theirs:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("not ours")
    assert run("verify").stdout == "1 kept files, 0 rotten and removed\n"
    assert all(file.read_text() == "not ours" for file in theirs)


def test_a_damaged_store_path_is_listed_and_nothing_of_it_is_kept(run: Run, daemon: Lab, cache: Path) -> None:
    damaged = daemon.real(closure_of(daemon).input0) / "bar"
    damaged.chmod(0o644)
    damaged.write_text("oof\n")
    damaged.chmod(0o444)
    assert "NarHash" in run("compress", daemon.full(closure_of(daemon).input0), status=1).stderr
    assert not kept(cache)
    found = run("verify", status=1).stdout
    assert daemon.full(closure_of(daemon).input0) in found
    assert "--repair-path" in found


def test_a_program_gets_one_document_and_no_words(run: Run, daemon: Lab) -> None:
    path = daemon.full(closure_of(daemon).top)
    report = json.loads(run("compress", "--closure", "--json", path).stdout)
    assert report == {"storePaths": 3, "compressed": 3, "failures": []}
    assert json.loads(run("compress", "--json", path).stdout) == {"storePaths": 1, "compressed": 0, "failures": []}


def test_progress_is_shown_on_a_terminal_and_nowhere_else(run: Run, daemon: Lab, tmp_path: Path) -> None:
    path = daemon.full(closure_of(daemon).top)
    assert "\x1b" not in run("compress", path).stderr
    environment = daemon.env | {"PYTHONPATH": str(Path(harmonia_py.__file__).parent.parent), "TERM": "xterm"}
    primary, secondary = pty.openpty()
    command = [sys.executable, "-m", "harmonia_py.cli", "compress", "-c", str(tmp_path / "harmonia.toml"), "--all"]
    with subprocess.Popen(command, stdout=secondary, stderr=secondary, env=environment) as process:
        os.close(secondary)
        shown = b""
        try:
            while data := os.read(primary, 65536):
                shown += data
        except OSError:  # the other end is closed
            pass
        os.close(primary)
        assert process.wait(60) == 0
    assert b"compressing" in shown
    assert b"\x1b[" in shown
