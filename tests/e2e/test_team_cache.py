"""A team cache as its people use it: a configuration, two tokens, `nix copy`, and another machine."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import prefork
import pytest
from lab import Client, Lab
from server import Server, settings_of

from harmonia_py.nix.store_path import StorePath

TIME_LIMIT: Final = 60.0
KILLS: Final = 8


class Team:
    """A running server with the private cache `team`.

    Attributes:
        push, read: tokens.
    """

    def __init__(self, root: Path, lab: Lab) -> None:
        self.root, self.lab = root, lab
        settings = settings_of(lab) | {"caches": {"team": {"priority": 20}}}
        settings["state_directory"] = str(root / "server" / "state")
        self.server = Server(root, lab.env, settings)
        self.push = self.read = ""

    def command(self, *arguments: str) -> str:
        config = self.root / "server" / "harmonia.toml"
        env = {"PATH": os.environ["PATH"], "HOME": str(self.root)}
        done = prefork.run(*arguments, "--config", str(config), cwd=self.root, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def make_tokens(self) -> None:
        self.push = self.command("token", "create", "ci", "--cache", "team", "--allow", "read,push")
        self.read = self.command("token", "create", "laptop", "--cache", "team", "--allow", "read")

    def url(self, token: str, place: str = "") -> str:
        return f"http://x:{token}@127.0.0.1:{self.server.port}/team{place}"

    def copy(self, run: str = "", *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        url = self.url(self.push, f"/push{run}") + "?compression=zstd"
        # A client that is to fail would go on asking a server that is gone for many seconds.
        options = () if check else ("--option", "download-attempts", "1")
        return self.lab.run("nix", "copy", *options, "--to", url, self.lab.full(self.lab.closure.top), check=check)

    def kill_a_worker(self) -> None:
        workers = self.server.processes()[1:]  # those killed before may not have been replaced yet
        if workers:
            os.kill(workers[0], signal.SIGKILL)

    def substitute(self, name: str) -> Client:
        client = self.lab.client(name)
        self.realise(client, "--option", "require-sigs", "false")
        return client

    def realise(self, client: Client, *options: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        substituter = ("--option", "substituters", self.url(self.read))
        top = self.lab.full(self.lab.closure.top)
        return client.run("nix-store", "--realise", top, *substituter, *options, check=check)


def assert_same(client: Client, lab: Lab, *paths: StorePath) -> None:
    for path in paths:
        assert client.run("nix-store", "--dump", str(client.real(path))).stdout == lab.dump(path)


@pytest.fixture
def team(tmp_path: Path, daemon: Lab) -> Iterator[Team]:
    team = Team(tmp_path, daemon)
    with team.server:
        team.make_tokens()
        yield team


def test_a_private_cache_two_tokens_and_a_substituted_closure(team: Team, daemon: Lab) -> None:
    team.copy()
    client = team.substitute("other-machine")
    assert_same(client, daemon, daemon.closure.top, daemon.closure.input2, daemon.closure.input0)
    assert team.server.get("/team/nix-cache-info").status == 401
    refused = daemon.run(
        "nix", "copy", "--to", team.url(team.read, "/push/x"), daemon.full(daemon.closure.input1), check=False
    )
    assert refused.returncode == 1
    assert b"does not allow to push" in refused.stderr


def test_a_machine_that_trusts_the_key_of_the_cache_substitutes_what_it_alone_signed(team: Team, daemon: Lab) -> None:
    """What the tutorial says, with the key as it was printed."""
    public_key = team.command("key", "create", "team")
    team.copy()
    client = team.lab.client("trusts-the-key")
    assert team.realise(client, check=False).returncode != 0, "without the key nothing is believed"
    client.forget()
    team.realise(client, "--option", "trusted-public-keys", public_key)
    assert_same(client, daemon, daemon.closure.top, daemon.closure.input2, daemon.closure.input0)


def test_what_the_pushing_machine_signed_keeps_its_signature_beside_that_of_the_cache(team: Team, daemon: Lab) -> None:
    theirs = daemon.secret_key("builder-1")
    daemon.run(
        "nix", "store", "sign", "--recursive", "--key-file", str(theirs.secret_file), daemon.full(daemon.closure.top)
    )
    ours = team.command("key", "create", "team", "--name", "team-1")
    team.copy()
    narinfo = team.server.get(f"/team/{daemon.closure.top.hash_part}.narinfo", basic(team.read)).body.decode()
    assert "Sig: builder-1:" in narinfo
    assert "Sig: team-1:" in narinfo
    for name, key in (("by-theirs", theirs.public), ("by-ours", ours)):
        team.realise(team.lab.client(name), "--option", "trusted-public-keys", key)


def test_what_is_pushed_to_one_worker_every_worker_has(team: Team, daemon: Lab) -> None:
    team.copy()
    answers = {
        team.server.get(f"/team/{daemon.closure.top.hash_part}.narinfo", basic(team.read)).status for _ in range(16)
    }
    assert answers == {200}


def basic(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_push_ends_well_after_workers_were_killed_at_any_moment(team: Team, daemon: Lab) -> None:
    """kill -9 of a worker while clients push: the next try ends with 0, and nothing half is seen."""
    for kill in range(KILLS):
        timer = threading.Timer(0.02 * kill, team.kill_a_worker)
        timer.start()
        team.copy(f"/k{kill}", check=False)
        timer.join()
    team.copy("/last")
    client = team.substitute("client")
    assert client.run("nix-store", "--dump", str(client.real(daemon.closure.top))).stdout == daemon.dump(
        daemon.closure.top
    )


def test_a_push_ends_well_after_the_server_was_killed(team: Team, daemon: Lab) -> None:
    for kill in range(4):
        timer = threading.Timer(0.05 * kill, lambda: os.killpg(team.server.process.pid, signal.SIGKILL))
        timer.start()
        team.copy(f"/k{kill}", check=False)
        timer.join()
        team.server.stop()
        team.server.__enter__()
    team.copy("/last")
    client = team.substitute("client")
    assert client.run("nix-store", "--dump", str(client.real(daemon.closure.top))).stdout == daemon.dump(
        daemon.closure.top
    )
    growing = team.root / "server" / "state" / "pushed" / "growing"
    # The files of the static side are written there in the background, a moment after their paths were published.
    team.server.until(lambda: not any(path.is_file() for path in growing.iterdir()))
