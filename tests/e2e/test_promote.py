"""What a pull request has built gets from a cache of its own into the main one: real clients, a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ci_jobs import copy, run_client, run_command
from issuer import Issuer, table_of
from lab import Lab
from server import Server, settings_of

OTHER_KEY = "other-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
CACHES: dict[str, Any] = {
    "main": {"public": True},
    "base": {},
    "pulls": {"caches": ["base"]},
    "signed": {"signed_by": [OTHER_KEY]},
}


def rule(job: str, caches: str, *allow: str) -> dict[str, Any]:
    return {"claims": {"job": job}, "caches": [caches], "allow": list(allow)}


RULES = (
    rule("pull", "pulls", "read", "push"),
    rule("base", "base", "read", "push"),
    rule("promoter", "*", "read"),
    rule("promoter", "main", "push"),
    rule("promoter", "signed", "push"),
    rule("blind", "main", "push"),
)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


@pytest.fixture
def server(daemon: Lab, tmp_path: Path, issuer: Issuer) -> Iterator[Server]:
    settings = settings_of(daemon) | {"workers": 1, "caches": CACHES, "oidc": {"ci": table_of(issuer, *RULES)}}
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def promote(lab: Lab, server: Server, token: str, source: str, target: str, *paths: str) -> tuple[int, str]:
    command = ("promote", "--json", source, f"{server.url}/{target}", *paths)
    done = run_client(lab, command, {"HARMONIA_PY_TOKEN": token})
    return done.returncode, done.stdout + done.stderr


def files(server: Server) -> dict[str, tuple[int, int]]:
    """The files of NARs, and what tells each from a copy of it."""
    found = (server.root / "state/pushed/nar").glob("*.nar.*")
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in found}


@pytest.mark.default_backing
def test_a_closure_is_promoted_and_no_bytes_move(daemon: Lab, tmp_path: Path, server: Server, issuer: Issuer) -> None:
    closure, narinfo = daemon.closure, f"/main/{daemon.closure.top.hash_part}.narinfo"
    public_keys = [run_command(server, daemon, "key", "create", name)[-1] for name in ("pulls", "main")]
    assert copy(daemon, server, "pulls", issuer.token(job="pull"), tmp_path)[0] == 0
    before = files(server)
    assert len(before) == 3
    assert server.get(narinfo).status == 404
    status, said = promote(daemon, server, issuer.token(job="promoter"), "pulls", "main", daemon.full(closure.top))
    assert status == 0, said
    told = json.loads(said)
    assert told["published"][-1] == closure.top
    assert set(told["published"]) == {closure.top, closure.input2, closure.input0}
    assert (told["present"], told["kept_first"]) == (0, [])
    assert files(server) == before
    # Of the two keys that of the cache it is in signs.
    names = [key.partition(":")[0] for key in public_keys]
    signed = [line for line in server.get(narinfo).body.decode().splitlines() if line.startswith("Sig: ")]
    assert [line.split()[1].partition(":")[0] for line in signed] == names[1:]
    client = daemon.client("client")
    options = ["--option", "substituters", f"{server.url}/main", "--option", "trusted-public-keys", public_keys[1]]
    client.nix_store("--realise", daemon.full(closure.top), *options)
    assert client.run("nix-store", "--dump", str(client.real(closure.top))).stdout == daemon.dump(closure.top)
    # Again it is there already, and the log says who did it.
    status, said = promote(daemon, server, issuer.token(job="promoter"), "pulls", "main", str(closure.top))
    assert json.loads(said) == {"published": [], "present": 1, "kept_first": []}
    command = ("promote", "pulls", f"{server.url}/main", str(closure.top))
    done = run_client(daemon, command, {"HARMONIA_PY_TOKEN": issuer.token(job="promoter")})
    assert (done.returncode, done.stderr) == (0, f"{server.url}/main: 0 paths published, 1 present\n")
    log = [json.loads(line) for line in run_command(server, daemon, "audit")]
    (entry,) = [entry for entry in log if entry["action"] == "promote"]
    assert (entry["cache"], entry["subject"], entry["detail"]) == ("main", closure.top, {"from": "pulls", "paths": 3})
    assert entry["principal"].startswith("ci identity ")


def test_a_reference_that_is_in_neither_cache_stops_all_of_it(
    daemon: Lab, tmp_path: Path, server: Server, issuer: Issuer
) -> None:
    """The closure invariant: a client that can get a narinfo from a cache can get those of its references."""
    closure, promoter = daemon.closure, issuer.token(job="promoter")
    assert copy(daemon, server, "base", issuer.token(job="base"), tmp_path, path=closure.input2)[0] == 0
    assert copy(daemon, server, "pulls", issuer.token(job="pull"), tmp_path, path=closure.top)[0] == 0
    status, said = promote(daemon, server, promoter, "pulls", "main", str(closure.top))
    assert status == 1
    assert f"{closure.input2.hash_part} is not in either cache" in said
    assert server.get(f"/main/{closure.top.hash_part}.narinfo").status == 404
    assert promote(daemon, server, promoter, "base", "main", str(closure.input2))[0] == 0
    status, said = promote(daemon, server, promoter, "pulls", "main", str(closure.top))
    assert json.loads(said)["published"] == [closure.top]
    assert server.get(f"/main/{closure.top.hash_part}.narinfo").status == 200


def test_promoting_takes_both_rights_and_tells_nothing_of_other_caches(
    daemon: Lab, tmp_path: Path, server: Server, issuer: Issuer
) -> None:
    top = str(daemon.closure.top)
    assert copy(daemon, server, "pulls", issuer.token(job="pull"), tmp_path)[0] == 0
    # May push there, and not read it here; whether there is such a cache is not told.
    for source in ("pulls", "none"):
        status, said = promote(daemon, server, issuer.token(job="blind"), source, "main", top)
        assert (status, f"does not allow to read the cache {source}" in said) == (1, True)
    # May read it, and not push there.
    status, said = promote(daemon, server, issuer.token(job="pull"), "pulls", "main", top)
    assert (status, "does not allow to push the cache main" in said) == (1, True)
    assert server.get(f"/main/{daemon.closure.top.hash_part}.narinfo").status == 404


def test_what_cannot_be_promoted_is_refused(daemon: Lab, tmp_path: Path, server: Server, issuer: Issuer) -> None:
    top, promoter = str(daemon.closure.top), issuer.token(job="promoter")
    assert copy(daemon, server, "pulls", issuer.token(job="pull"), tmp_path)[0] == 0
    for source, target, path, words in (
        ("pulls", "main", f"{'0' * 32}-absent", "is not in the cache that it is promoted from"),
        ("main", "main", top, "is the cache that they are promoted to"),
        ("none", "main", top, "there is no cache none"),
        # A cache that wants the signature of a key has it of what is promoted as well.
        ("pulls", "signed", top, "Sig"),
    ):
        status, said = promote(daemon, server, promoter, source, target, path)
        assert (status, words in said) == (1, True), said
