"""What a mirror of the release before there was a catalog had kept, as that release wrote it, under this one.

`kept_by_the_release_before.json` was made by running that release in front of a store with three paths: each file that
it left with the metadata in its attributes, and what it answered at the end.
"""

import base64
import json
import re
import time
from pathlib import Path
from typing import Any, Final

import pytest
from mirrors import named
from old_release import put
from server import Server

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import StoreDir, StorePath

_LEFT: Final = Path(__file__).with_name("kept_by_the_release_before.json")
_TAKEN: Final = re.compile(r"(\d+) files were taken into the catalog")


@pytest.fixture
def left() -> dict[str, Any]:
    """What that release left."""
    found: dict[str, Any] = json.loads(_LEFT.read_text())
    return found


@pytest.fixture
def server(left: dict[str, Any], tmp_path: Path) -> Server:
    """A server, not started, whose upstream does not answer, on the directory that was left."""
    for file in left["files"]:
        data = base64.b64decode(file["data"])
        put(tmp_path / "server/cache", file["key"], data, file["metadata"], time.time() - 3600)
    upstream = {"url": "http://127.0.0.1:1", "name": "up", "public_keys": [left["public_key"]]}
    settings = {
        "workers": 1,
        "daemon_socket": "/nowhere/socket",
        "real_nix_store": "/nowhere/store",
        "sign": False,
        "upstream": [upstream],
    }
    return Server(tmp_path, {}, settings)


def test_a_mirror_serves_what_the_release_before_kept_although_its_upstream_is_gone(
    left: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    answers = {StorePath(path): answer for path, answer in left["answers"].items()}
    with server:
        # Three NARs and their listings; narinfos are rows from now on.
        assert int(server.wait_for(_TAKEN)[1]) == 2 * len(answers)
        assert named(tmp_path / "server/cache") == {path.hash_part for path in answers}
        for path, before in answers.items():
            answer = server.get(f"/{path.hash_part}.narinfo")
            assert answer.status == 200
            then, now = (
                NarInfo.parse(body, StoreDir("/nix/store")) for body in (before["narinfo"].encode(), answer.body)
            )
            assert now.path_info.references == then.path_info.references
            assert now.path_info.signatures == then.path_info.signatures
            assert (now.path_info.nar_hash, now.path_info.deriver) == (then.path_info.nar_hash, then.path_info.deriver)
            nar = server.get(f"/{now.url}").body
            assert nar == base64.b64decode(before["nar"])
            assert (now.file_hash, now.file_size) == (Hash.of(nar), len(nar))
            assert server.get(f"/{path.hash_part}.ls").body == before["ls"].encode()
    assert not list((tmp_path / "server/cache").rglob("*.narinfo"))
