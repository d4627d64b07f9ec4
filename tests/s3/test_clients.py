"""Stock Nix pushes into a cache whose files are in a bucket, and substitutes from it."""

import json
import re
import urllib.request
from pathlib import Path

from administering import Machine
from lab import Client, Lab
from seaweed import Bucket
from server import Server


def push(lab: Lab, server: Server, token: str) -> None:
    url = f"http://x:{token}@127.0.0.1:{server.port}/team/push?compression=zstd"
    lab.nix("copy", "--to", url, lab.full(lab.closure.top))


def substitute(lab: Lab, name: str, url: str, public: str) -> Client:
    client = lab.client(name)
    options = ("--option", "substituters", url, "--option", "trusted-public-keys", public)
    client.nix_store("--realise", lab.full(lab.closure.top), "--max-jobs", "0", *options)
    return client


def same(lab: Lab, client: Client) -> bool:
    paths = (lab.closure.top, lab.closure.input2, lab.closure.input0)
    return all(client.run("nix-store", "--dump", str(client.real(path))).stdout == lab.dump(path) for path in paths)


def test_what_is_pushed_is_in_the_bucket_and_clients_get_it_with_the_server_and_without(
    team: Server, daemon: Lab, machine: Machine, public_bucket: Bucket, tmp_path: Path
) -> None:
    public = machine.do("key", "create", "team", "--name", "team-1").strip()
    token = machine.do("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
    push(daemon, team, token)

    assert same(daemon, substitute(daemon, "through-the-server", f"{team.url}/team", public))

    nars = [key for key in public_bucket.all_keys() if re.fullmatch(r"kept/nar/[0-9a-z]{52}\.nar\.zst", key)]
    assert len(nars) == 3
    assert not list((tmp_path / "server" / "state" / "pushed").rglob("*.nar*")), "the disk keeps nothing"
    team.until(lambda: sum(key.endswith(".narinfo") for key in public_bucket.all_keys()) == 3)
    team.stop()
    top = daemon.closure.top
    with urllib.request.urlopen(f"{public_bucket.public}/kept/team/{top.hash_part}.ls", timeout=30) as answer:
        assert (answer.headers["Content-Type"], answer.headers["Content-Encoding"]) == ("application/json", None)
        (tmp_path / "nar").write_bytes(daemon.dump(top))
        of_nar = json.loads(daemon.nix("nar", "ls", "--json", "--recursive", str(tmp_path / "nar"), "/"))
        assert json.load(answer) == {"version": 1, "root": of_nar}
    assert same(daemon, substitute(daemon, "from-the-bucket", f"{public_bucket.public}/kept/team", public))
