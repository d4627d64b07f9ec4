"""`fsck` and `export` as an administrator runs them, beside the server and without it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import backing
import prefork
import pytest
from lab import Lab
from server import Server, settings_of


class Machine:
    """A server with the cache `team`, and commands beside it."""

    def __init__(self, root: Path, lab: Lab) -> None:
        self.root, self.lab = root, lab
        settings = settings_of(lab) | {"caches": {"team": {}}, "cache": {"directory": str(root / "server" / "cache")}}
        settings["state_directory"] = str(root / "server" / "state")
        self.server = Server(root, lab.env, settings)
        self.state = root / "server" / "state"
        self.files = backing.directory(root, "server/state/pushed")

    def lose_catalog(self) -> None:
        backing.lose_catalog(self.root)
        for file in self.state.glob("catalog.*"):
            file.unlink()

    def largest(self) -> Path:
        return max((self.files / "nar").glob("*"), key=lambda file: file.stat().st_size)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        config = self.root / "server" / "harmonia.toml"
        env = {"PATH": os.environ["PATH"], "HOME": str(self.root)}
        return prefork.run(*arguments, "--config", str(config), cwd=self.root, env=env)

    def do(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def findings(self, *options: str) -> list[dict[str, Any]]:
        done = self.run("fsck", "--json", *options)
        *found, sums = [json.loads(line) for line in done.stdout.splitlines()]
        assert sums["files"] >= 0, done.stderr
        assert done.returncode == (1 if any(one["done"] is None for one in found) else 0)
        return found

    def url(self, token: str, place: str = "") -> str:
        return f"http://x:{token}@127.0.0.1:{self.server.port}/team{place}"

    def push(self, run: str) -> None:
        token = self.do("token", "create", run, "--cache", "team", "--allow", "read,push")
        self.lab.run("nix", "copy", "--to", self.url(token, f"/push/{run}"), self.lab.full(self.lab.closure.top))

    def substitute(self, name: str) -> None:
        token = self.do("token", "create", name, "--cache", "team", "--allow", "read")
        client, top = self.lab.client(name), self.lab.closure.top
        options = ["--option", "substituters", self.url(token), "--option", "require-sigs", "false"]
        client.nix_store("--realise", self.lab.full(top), *options)
        assert client.run("nix-store", "--dump", self.lab.full(top)).stdout == self.lab.dump(top)


# Its database has a name in the configuration, and goes by other means than a file.
with_a_catalog_in_a_file = pytest.mark.skipif(backing.IN_POSTGRESQL, reason="the catalog is lost as a file")


@with_a_catalog_in_a_file
def test_lost_files_and_a_lost_catalog_are_repaired(lab: Lab, tmp_path: Path) -> None:
    machine = Machine(tmp_path, lab)
    with machine.server:
        machine.push("r1")
        assert machine.findings("--hashes") == []
        largest = machine.largest()
        largest.unlink()
        (found,) = machine.findings("--repair")
        assert (found["storage"], found["fault"], found["key"]) == ("pushed", "missing", f"nar/{largest.name}")
        assert machine.run("doctor").stdout.count("1 file lost; ") == 1
        machine.push("r2")
        assert machine.findings("--hashes") == []
        machine.substitute("client")
    machine.lose_catalog()
    looked = machine.run("fsck")
    assert looked.returncode == 1
    assert "`fsck --rebuild` makes one" in looked.stdout
    assert "--repair" not in looked.stdout, "one advice: without a catalog it puts nothing right"
    with machine.server:
        machine.server.until(lambda: "fsck --rebuild" in machine.server.output())
        (found,) = machine.findings("--repair")
        assert found["fault"] == "unreadable"
        assert "--repair would delete all" in found["detail"]
        collected = machine.run("gc")
        assert collected.returncode == 1
        assert "the catalog is not that of the files" in collected.stderr
    words = machine.do("fsck", "--rebuild")
    assert "3 paths published" in words
    assert "tokens: make new ones" in words
    with machine.server:
        machine.substitute("laptop")
        assert machine.findings("--hashes") == []


@with_a_catalog_in_a_file
def test_what_a_rebuild_leaves_out_is_told_to_people_and_to_scripts(lab: Lab, tmp_path: Path) -> None:
    machine = Machine(tmp_path, lab)
    with machine.server:
        machine.push("r1")
    largest = machine.largest()
    largest.write_bytes(largest.read_bytes()[:10])
    for options in ((), ("--json",)):
        machine.lose_catalog()
        done = machine.run("fsck", "--rebuild", *options)
        assert done.returncode == 1
        if options:
            told = json.loads(done.stdout)
            assert (told["pushed"]["caches"], len(told["pushed"]["faults"])) == (0, 1)
            assert "pins: set them again" in told["lost"][1]
        else:
            assert f"left out team/{lab.closure.top.hash_part}.narinfo: " in " ".join(done.stdout.split())


def test_a_cache_is_exported_beside_the_server(lab: Lab, tmp_path: Path) -> None:
    machine, out = Machine(tmp_path, lab), tmp_path / "out"
    with machine.server:
        machine.push("r1")
        key = machine.do("key", "create", "team").splitlines()[-1]
        told = json.loads(machine.do("export", "team", str(out), "--json"))
        assert (told["paths"], told["skipped"]) == (3, 0)
        refused = machine.run("export", "team", "s3://bucket/prefix")
        assert refused.returncode == 1
        assert "exported to a directory" in refused.stderr
    client, top = lab.client("client"), lab.closure.top
    options = ["--option", "substituters", f"file://{out}", "--option", "trusted-public-keys", key]
    client.nix_store("--realise", lab.full(top), *options)
    assert client.run("nix-store", "--dump", lab.full(top)).stdout == lab.dump(top)
