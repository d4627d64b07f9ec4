"""Attic's own client against this server: `ATTIC_BIN` names it, and without that these tests are skipped."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Final

import pytest
from attic_client import EVERYTHING, make_token, secret_base64
from lab import Lab
from server import Server, settings_of

from harmonia_py.nix.store_path import StorePath

ATTIC: Final = os.environ.get("ATTIC_BIN", "")
TIME_LIMIT: Final = 100.0

pytestmark = pytest.mark.skipif(not ATTIC, reason="ATTIC_BIN does not name the client of Attic")


class Machine:
    """A machine with Attic's client, whose store is that of a lab."""

    def __init__(self, lab: Lab, home: FilePath) -> None:
        self.lab = lab
        self.home = home
        home.mkdir()
        self.env = lab.env | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}

    def attic(self, *arguments: str, status: int = 0, stdin: str = "") -> str:
        done = subprocess.run(
            [ATTIC, *arguments],
            env=self.env,
            input=stdin,
            capture_output=True,
            check=False,
            text=True,
            timeout=TIME_LIMIT,
        )
        told = done.stdout + done.stderr
        assert done.returncode == status, told
        return told

    def full(self, *paths: StorePath) -> list[str]:
        return [self.lab.full(path) for path in paths]


@pytest.fixture
def server(daemon: Lab, tmp_path: FilePath) -> Iterator[Server]:
    env = daemon.env | {"ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64": secret_base64()}
    with Server(tmp_path, env, settings_of(daemon) | {"attic": {"enabled": True}}) as server:
        yield server


def logged_in(server: Server, lab: Lab, home: FilePath, caches: Mapping[str, Mapping[str, int]]) -> Machine:
    machine = Machine(lab, home)
    machine.attic("login", "here", server.url, make_token("alice", caches), "--set-default")
    return machine


def test_from_login_to_a_substituted_closure(daemon: Lab, server: Server, tmp_path: FilePath) -> None:
    machine = logged_in(server, daemon, tmp_path / "home", {"team": EVERYTHING})
    machine.attic("cache", "create", "team", "--store-dir", daemon.store_dir)
    top = machine.full(daemon.closure.top)
    told = machine.attic("push", "team", *top)
    assert "Pushing" in told or "✅" in told, told
    machine.attic("use", "team")
    nix_conf = (machine.home / "config/nix/nix.conf").read_text()
    assert f"{server.url}/team" in nix_conf
    client = daemon.client("other")
    netrc = machine.home / "config/nix/netrc"
    assert netrc.stat().st_mode & 0o777 == 0o600
    key = next(word for word in nix_conf.split() if word.startswith("team:"))
    options = {"substituters": f"{server.url}/team", "trusted-public-keys": key, "netrc-file": str(netrc)}
    client.nix_store("--realise", *top, *[word for pair in options.items() for word in ("--option", *pair)])
    assert client.real(daemon.closure.top).exists()


def test_a_second_push_sends_nothing(daemon: Lab, server: Server, tmp_path: FilePath) -> None:
    machine = logged_in(server, daemon, tmp_path / "home", {"team": EVERYTHING})
    machine.attic("cache", "create", "team", "--store-dir", daemon.store_dir)
    top = machine.full(daemon.closure.top)

    def uploads() -> int:
        return server.output().count("PUT /_api/v1/upload-path")

    machine.attic("push", "team", *top)
    expected = len(daemon.path_infos("--recursive", *top))
    server.until(lambda: uploads() == expected)
    assert "All done" in machine.attic("push", "team", *top)
    server.get("/told-after-that")
    server.until(lambda: "/told-after-that" in server.output())
    assert uploads() == expected


def test_a_path_with_so_many_references_that_its_description_fits_in_no_header(
    daemon: Lab, server: Server, tmp_path: FilePath
) -> None:
    machine = logged_in(server, daemon, tmp_path / "home", {"team": EVERYTHING})
    machine.attic("cache", "create", "team", "--public", "--store-dir", daemon.store_dir)
    expression = """
        builtins.toFile "many" (builtins.concatStringsSep "\\n" (builtins.genList
            (n: "${builtins.toFile "one-of-a-hundred-${toString n}" (toString n)}") 100))
    """
    told = daemon.run("nix-instantiate", "--eval", "--read-write-mode", "-E", expression).stdout.decode()
    path = daemon.store_dir.parse_path(json.loads(told))
    machine.attic("push", "team", *machine.full(path))
    narinfo = server.get(f"/team/{path.hash_part}.narinfo").body.decode()
    (references,) = [line for line in narinfo.splitlines() if line.startswith("References: ")]
    assert len(references.split()) == 1 + 100


def test_what_is_built_while_the_client_watches_the_store(daemon: Lab, server: Server, tmp_path: FilePath) -> None:
    machine = logged_in(server, daemon, tmp_path / "home", {"team": EVERYTHING})
    machine.attic("cache", "create", "team", "--public", "--store-dir", daemon.store_dir)
    told = tmp_path / "told"
    with told.open("wb") as file:
        watching = subprocess.Popen([ATTIC, "watch-store", "team"], env=machine.env, stdout=file, stderr=file)
        try:
            server.until(lambda: "Pushing new store paths" in told.read_text())
            built: list[StorePath] = []

            def is_served() -> bool:
                """What was built before the client began to look it does not know: one more is built each time."""
                text = f'derivation {{ name = "built-{len(built)}"; system = builtins.currentSystem; '
                text += 'builder = "/bin/sh"; args = [ "-c" "echo it > $out" ]; }'
                done = daemon.run("nix-build", "--no-out-link", "-E", text).stdout.decode().strip()
                built.append(daemon.store_dir.parse_path(done))
                return any(server.get(f"/team/{path.hash_part}.narinfo").status == 200 for path in built)

            server.until(is_served)
        finally:
            watching.terminate()
            watching.wait(TIME_LIMIT)


def test_every_path_by_the_preamble(daemon: Lab, server: Server, tmp_path: FilePath) -> None:
    machine = logged_in(server, daemon, tmp_path / "home", {"team": EVERYTHING})
    machine.attic("cache", "create", "team", "--store-dir", daemon.store_dir)
    machine.attic("push", "team", "--force-preamble", *machine.full(daemon.closure.top))
    info = json.loads(
        server.get("/team/attic-cache-info", {"Authorization": f"Bearer {make_token('x', {'team': EVERYTHING})}"}).body
    )
    assert info["store_dir"] == daemon.store_dir


def test_what_the_client_says_of_caches(daemon: Lab, server: Server, tmp_path: FilePath) -> None:
    machine = logged_in(server, daemon, tmp_path / "home", {"team": EVERYTHING})
    machine.attic("cache", "create", "team", "--store-dir", daemon.store_dir)
    assert "CacheAlreadyExists" in machine.attic("cache", "create", "team", "--store-dir", daemon.store_dir, status=1)
    machine.attic("cache", "configure", "team", "--public", "--priority", "30", "--retention-period", "7 days")
    told = machine.attic("cache", "info", "team")
    assert "Public: true" in told
    assert "Priority: 30" in told
    assert "Retention Period: 604800" in told
    machine.attic("cache", "configure", "team", "--priority", "31")
    assert "Retention Period: Global Default" in machine.attic("cache", "info", "team")
    machine.attic("cache", "destroy", "team", "--no-confirm")
    assert "NoSuchCache" in machine.attic("cache", "info", "team", status=1)


def test_what_the_client_prints_when_it_may_not(daemon: Lab, server: Server, tmp_path: FilePath) -> None:
    owner = logged_in(server, daemon, tmp_path / "owner", {"team": EVERYTHING})
    owner.attic("cache", "create", "team", "--store-dir", daemon.store_dir)
    reader = logged_in(server, daemon, tmp_path / "reader", {"team": {"r": 1}})
    top = owner.full(daemon.closure.top)
    assert "AccessError: Access error: User does not have permission" in reader.attic("push", "team", *top, status=1)
    stranger = logged_in(server, daemon, tmp_path / "stranger", {"other": EVERYTHING})
    assert "Unauthorized: Unauthorized." in stranger.attic("push", "team", *top, status=1)
    late = Machine(daemon, tmp_path / "late")
    late.attic("login", "here", server.url, make_token("bob", {"team": EVERYTHING}, exp=1_700_000_000), "--set-default")
    assert "the token bob expired on 2023-11-14" in late.attic("push", "team", *top, status=1)
