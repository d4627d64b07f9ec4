"""`deduplicate = "chunks"` on the real server, with what is pushed in a bucket."""

import re
from pathlib import Path

import pytest
from administering import Machine
from lab import Lab
from realising import assert_has_the_closure
from s3_double import S3Double, credentials_file
from server import Server, settings_of
from zstd_library import zstd

pytestmark = pytest.mark.s3


def names(double: S3Double, *folders: str) -> list[str]:
    begins = tuple(f"kept/{folder}/" for folder in folders)
    return [key for key in list(double.objects) if key.startswith(begins)]


def test_a_cache_becomes_chunks_in_the_bucket_and_its_packs_go_with_it(
    daemon: Lab, double: S3Double, machine: Machine, tmp_path: Path
) -> None:
    """The job ran for directories alone: in a bucket nothing became chunks, and no pack was ever collected."""
    storage = {"url": double.url("kept"), "credentials_file": str(credentials_file(tmp_path))}
    without = settings_of(daemon) | {"workers": 1, "storage": storage}
    settings = without | {"caches": {"team": {"public": True, "deduplicate": "chunks", "deduplicate_after": 0}}}
    with Server(tmp_path, daemon.env, settings) as server:
        token = machine.do("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
        url = f"http://x:{token}@127.0.0.1:{server.port}/team/push?compression=zstd"
        daemon.nix("copy", "--to", url, daemon.full(daemon.closure.top))
    assert len(names(double, "nar")) == 3

    # The job looks when a server starts, and then every minute.
    with Server(tmp_path, daemon.env, settings) as server:
        server.until(lambda: len(names(double, "recipes")) == 3)
        assert names(double, "packs")
        path = daemon.closure.top
        found = re.search(rb"^URL: (.*)$", server.get(f"/team/{path.hash_part}.narinfo").body, re.MULTILINE)
        assert found is not None
        nar = f"/team/{found[1].decode()}"
        file = server.get(nar).body
        assert zstd.decompress(file) == daemon.dump(path)
        first, last = len(file) // 3, len(file) // 2
        part = server.get(nar, {"Range": f"bytes={first}-{last}"})
        assert (part.status, part.body) == (206, file[first : last + 1])
        client = daemon.client("client")
        options = ["--option", "substituters", f"{server.url}/team", "--option", "require-sigs", "false"]
        client.nix_store("--realise", daemon.full(path), *options)
        assert_has_the_closure(client, daemon)

    config = ("--config", str(tmp_path / "server" / "harmonia.toml"))
    with Server(tmp_path, daemon.env, without):
        machine.do("cache", "delete", "team", "--yes")
        machine.do("gc", *config)
    with Server(tmp_path, daemon.env, without) as server:

        def are_gone() -> bool:
            machine.do("gc", *config)
            return not names(double, "packs", "recipes", "nar")

        server.until(are_gone)
