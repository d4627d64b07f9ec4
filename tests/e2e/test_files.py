"""What the whole server says of files, debug information, and its own state."""

import json
import time
from pathlib import Path
from urllib.parse import urljoin

import pytest
from lab import Lab
from server import Answer, Server, settings_of

BUILD_ID = "02623eda209c26a59b1a8638ff7752f6b945c26b"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A site with a debug file in it, and a link out of the store."""
    tree = tmp_path / "tree"
    directory = tree / "lib" / "debug" / ".build-id" / BUILD_ID[:2]
    directory.mkdir(parents=True)
    (directory / f"{BUILD_ID[2:]}.debug").write_bytes(b"\x7fELF")
    (tree / "index.html").write_text("<h1>hello</h1>")
    (tree / "passwd").symlink_to("/etc/passwd")
    return tree


@pytest.mark.parametrize("chroot", [False, True])
def test_a_server_shows_files_and_says_whether_it_is_ready(tmp_path: Path, tree: Path, *, chroot: bool) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with Lab(root, chroot=chroot) as lab:
        lab.closure = lab.build()
        path = lab.add(tree)
        lab.start_daemon()
        with Server(tmp_path, lab.env, settings_of(lab)) as server:
            assert server.get("/ready").body == b"OK\n"
            assert server.get(f"/serve/{lab.closure.top.hash_part}/reference-to-input-2/bar").body == b"BAR\n"
            listing = server.get(f"/serve/{lab.closure.top.hash_part}/")
            assert b'href="program"' in listing.body
            assert server.get(f"/serve/{path.hash_part}/").body == b"<h1>hello</h1>"
            assert server.get(f"/serve/{path.hash_part}/passwd").status == 404
            _has_debug_info(server, lab.dump(path))
            assert json.loads(server.get(f"/{path.hash_part}.narinfo?json").body)["storePath"] == path
            lab.stop_daemon()
            answer = _eventually(server, 503)
            assert answer.body == b"nix-daemon\n"
            lab.start_daemon()
            _eventually(server, 200)


def test_files_can_be_kept_to_nix_clients(daemon: Lab, tmp_path: Path) -> None:
    with Server(tmp_path, daemon.env, {**settings_of(daemon), "serve_files": False}) as server:
        top = daemon.closure.top
        assert server.get(f"/serve/{top.hash_part}/foobar").status == 404
        assert server.get(f"/{top.hash_part}.narinfo").status == 200


def _has_debug_info(server: Server, nar: bytes) -> None:
    for name in (BUILD_ID, f"{BUILD_ID}.debug"):
        found = json.loads(server.get(f"/debuginfo/{name}").body)
        assert found["member"] == f"lib/debug/.build-id/{BUILD_ID[:2]}/{BUILD_ID[2:]}.debug"
        assert server.get(urljoin(f"/debuginfo/{name}", found["archive"])).body == nar


def _eventually(server: Server, status: int) -> Answer:
    deadline = time.monotonic() + 20
    while (answer := server.get("/ready")).status != status:
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    return answer
