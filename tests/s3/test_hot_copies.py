"""A server of two workers with copies in front of its bucket, and stock Nix."""

import os
import signal
from pathlib import Path

import pytest
from administering import Machine
from lab import Lab
from s3_double import S3Double, environment
from server import Server, settings_of

from harmonia_py.nix.store_path import StorePath

pytestmark = pytest.mark.s3

_SIZE = 3_000_000


def substitute(lab: Lab, name: str, path: StorePath, url: str, public: str) -> bool:
    """Whether a new client gets the path as it is."""
    client = lab.client(name)
    options = ("--option", "substituters", url, "--option", "trusted-public-keys", public)
    client.nix_store("--realise", lab.full(path), "--max-jobs", "0", *options)
    return client.run("nix-store", "--dump", str(client.real(path))).stdout == lab.dump(path)


def test_a_path_is_substituted_from_the_copy_that_another_client_has_left_also_after_a_kill(
    daemon: Lab, double: S3Double, machine: Machine, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(_SIZE))
    path = daemon.add(big)
    hot = tmp_path / "hot"
    settings = settings_of(daemon) | {
        "workers": 2,
        "caches": {"team": {"public": True}},
        "storage": {"url": double.url("kept"), "hot_max_size": "1 GiB", "hot_directory": str(hot)},
    }
    with Server(tmp_path, daemon.env | environment(), settings) as server:
        public = machine.do("key", "create", "team", "--name", "team-1").strip()
        token = machine.do("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
        push = f"http://x:{token}@127.0.0.1:{server.port}/team/push?compression=none"
        daemon.nix("copy", "--to", push, daemon.full(path))

        url = f"{server.url}/team"
        assert substitute(daemon, "first", path, url, public)
        server.until(lambda: server.figure("harmonia_hot_copied_bytes_total") >= _SIZE)
        assert substitute(daemon, "second", path, url, public)
        assert server.figure('harmonia_hot_files_total{result="hit"}') >= 1
        copies = [one for one in hot.rglob("*.nar") if one.is_file()]
        assert len(copies) == 1

        hits = server.figure('harmonia_hot_files_total{result="hit"}')
        killed = set(server.processes()[1:])
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        server.until(lambda: len(set(server.processes()) - killed) == 3)
        assert substitute(daemon, "third", path, url, public)
        assert server.figure('harmonia_hot_files_total{result="hit"}') > hits, "of the workers that came after"
        server.until(lambda: server.figure("harmonia_hot_bytes") >= _SIZE)
