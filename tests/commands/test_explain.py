"""`harmonia-py explain`: what it says of the local store, and why."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefork
import pytest
import tomli_w
from lab import Lab
from server import settings_of
from terminal import on_a_terminal


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.closure = lab.build()
        lab.start_daemon()
        yield lab


def explained(store: Lab, root: Path, path: str, **settings: Any) -> tuple[int, str]:
    file = root / "harmonia.toml"
    key = store.secret_key("here-1")
    key.secret_file.chmod(0o600)
    file.write_text(tomli_w.dumps(settings_of(store, key) | settings))
    env = store.env | {"STATE_DIRECTORY": str(root / "state")}
    done = prefork.run("explain", "--config", str(file), path, cwd=root, env=env)
    assert done.stderr == ""
    return done.returncode, " ".join(done.stdout.split())


def test_a_path_of_the_local_store(store: Lab, tmp_path: Path) -> None:
    top = store.closure.top
    status, words = explained(store, tmp_path, store.full(top))
    assert status == 0
    assert f"yes local store: has {top}, signed by no key" in words
    assert "no kept: nothing, as there is no upstream" in words
    assert "It would be served, signed by us with here-1." in words
    upstream = [{"url": "http://127.0.0.1:1", "public_keys": [store.secret_key("up-1").public]}]
    status, words = explained(store, tmp_path, top.hash_part, mirror={"offline": True}, upstream=upstream)
    assert status == 0
    assert "no upstreams: none is asked (mirror.offline)" in words


def test_on_a_terminal_each_answer_hangs_behind_its_mark(store: Lab, tmp_path: Path) -> None:
    top, file = store.closure.top, tmp_path / "harmonia.toml"
    file.write_text(tomli_w.dumps(settings_of(store)))
    env = store.env | {"STATE_DIRECTORY": str(tmp_path / "state"), "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "40"}
    command = ("explain", "--config", str(file), top)
    seen = on_a_terminal(command, cwd=tmp_path, env=env, status=0, size=(24, 40)).splitlines()
    assert max(len(line.rstrip()) for line in seen[1:]) <= 40
    [first] = [number for number, line in enumerate(seen) if line.startswith("  yes local store: has")]
    assert seen[first + 1].startswith(" " * len("  yes "))
    assert f"has{top},signedbynokey" in "".join("".join(seen).split())


def test_a_path_that_the_local_store_does_not_have(store: Lab, tmp_path: Path) -> None:
    status, words = explained(store, tmp_path, "0" * 32)
    assert status == 1
    assert "no local store: does not have it" in words
    assert words.endswith("It would not be served.")


def test_a_path_that_is_there_and_that_the_policy_does_not_allow(store: Lab, tmp_path: Path) -> None:
    top = store.closure.top
    roots = {"serve": "roots", "roots": [store.full(store.closure.input1)]}
    status, words = explained(store, tmp_path, top.hash_part, policy=roots)
    assert status == 1
    assert f"yes local store: has {top}" in words
    assert 'The policy does not allow it (policy.serve = "roots").' in words


def test_a_store_that_cannot_be_asked_is_not_said_to_lack_the_path(store: Lab, tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    socket.touch()
    away = {"daemon_socket": str(socket), "real_nix_store": str(tmp_path / "store")}
    status, words = explained(store, tmp_path, store.closure.top.hash_part, **away)
    assert status == 1
    assert "local store: cannot tell: " in words
    assert "It would not be served. A client gets an error: " in words
