"""The storage of a public cache, served by nginx alone: stock Nix needs nothing of this program to read it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest
from administering import Machine
from lab import Lab
from nginx import Nginx
from server import Server, settings_of

TIME_LIMIT: Final = 30.0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def pushed(lab: Lab, machine: Machine, tmp_path: Path) -> Iterator[Server]:
    """A server with the public cache `team`, to which the closure was pushed under the key `team-1`."""
    lab.start_daemon()
    with Server(tmp_path, lab.env, settings_of(lab) | {"caches": {"team": {"public": True}}}) as server:
        machine.do("key", "create", "team", "--name", "team-1")
        token = machine.do("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
        url = f"http://x:{token}@127.0.0.1:{server.port}/team/push?compression=zstd"
        lab.nix("copy", "--to", url, lab.full(lab.closure.top))
        yield server


def storage(tmp_path: Path) -> Path:
    return tmp_path / "server" / "state" / "pushed"


def signers(directory: Path) -> set[tuple[str, ...]]:
    """The names of the keys in each narinfo of the cache `team`."""
    texts = [file.read_text() for file in (directory / "team").glob("*.narinfo")]
    return {tuple(sorted(re.findall(r"^Sig: ([^:]+):", text, re.MULTILINE))) for text in texts}


@pytest.mark.default_backing
def test_nginx_serves_what_was_pushed_when_the_server_is_gone_under_the_keys_of_now(
    pushed: Server, lab: Lab, machine: Machine, tmp_path: Path
) -> None:
    """The narinfos on the disk kept the signatures of the day on which they were pushed."""
    directory = storage(tmp_path)
    pushed.until(lambda: signers(directory) == {("team-1",)})
    public = machine.do("key", "rotate", "team", "--name", "team-2").strip()
    pushed.until(lambda: signers(directory) == {("team-1", "team-2")})
    machine.do("key", "retire", "team", "team-1")
    pushed.until(lambda: signers(directory) == {("team-2",)})
    assert len(list((directory / "team").glob("*.narinfo"))) == 3
    pushed.stop()
    with Nginx(tmp_path, directory) as nginx:
        client = lab.client("client")
        options = ("--option", "substituters", f"{nginx.url}/team", "--option", "trusted-public-keys", public)
        client.nix_store("--realise", lab.full(lab.closure.top), "--max-jobs", "0", *options)
        for path in (lab.closure.top, lab.closure.input2, lab.closure.input0):
            assert client.run("nix-store", "--dump", str(client.real(path))).stdout == lab.dump(path)


@pytest.mark.default_backing
def test_listings_are_read_from_nginx_when_the_server_is_gone_and_come_with_the_renewal_of_narinfos(
    pushed: Server, lab: Lab, machine: Machine, tmp_path: Path
) -> None:
    """`/<hash part>.ls` was 404 from every web server over the storage: nix-index found none of the files."""
    team = storage(tmp_path) / "team"
    pushed.until(lambda: len(list(team.glob("*.narinfo"))) == 3)
    for listing in team.glob("*.ls"):
        listing.unlink()  # as if an earlier release had written the cache
    machine.do("key", "rotate", "team", "--name", "team-2")
    pushed.until(lambda: signers(storage(tmp_path)) == {("team-1", "team-2")})
    pushed.stop()
    paths = (lab.closure.top, lab.closure.input2, lab.closure.input0)
    client, top = lab.client("client"), lab.full(lab.closure.top)
    with Nginx(tmp_path, storage(tmp_path)) as nginx:
        for path in paths:
            (tmp_path / "nar").write_bytes(lab.dump(path))
            of_nar = json.loads(lab.nix("nar", "ls", "--json", "--recursive", str(tmp_path / "nar"), "/"))
            with urlopen(f"{nginx.url}/team/{path.hash_part}.ls", timeout=TIME_LIMIT) as answer:
                assert json.load(answer) == {"version": 1, "root": of_nar}
        listed = client.nix("store", "ls", "--store", f"{nginx.url}/team", "--recursive", top)
        assert {"./foobar", "./program", "./self"} <= set(listed.split())
        infos = client.nix("path-info", "--recursive", "--store", f"{nginx.url}/team", top)
        assert set(infos.split()) == {lab.full(path) for path in paths}


@pytest.mark.default_backing
def test_a_key_that_changed_while_no_server_ran_is_noticed_at_the_start(
    pushed: Server, lab: Lab, machine: Machine, tmp_path: Path
) -> None:
    directory = storage(tmp_path)
    pushed.until(lambda: len(signers(directory)) == 1)
    pushed.stop()
    machine.do("key", "rotate", "team", "--name", "team-2")
    assert signers(directory) == {("team-1",)}, "no server runs"
    with pushed:
        pushed.until(lambda: signers(directory) == {("team-1", "team-2")})
