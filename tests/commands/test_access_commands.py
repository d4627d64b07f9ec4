"""`token`, `cache` and `audit`: what they print, what they refuse, and that a running server knows at once."""

import http.client
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest
from administering import Machine
from lab import Client, Keys, Lab
from server import Server, settings_of

from harmonia_py.nix.hashes import Hash

TIME_LIMIT: Final = 60.0
WORKERS: Final = 2
CONNECTIONS: Final = 12


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_token_alone_is_printed_and_can_be_used_in_a_script(machine: Machine) -> None:
    done = machine.run("token", "create", "ci", "--cache", "team-*", "--allow", "read,push", "--expires", "90d")
    assert done.stdout.startswith("hpy_")
    assert done.stdout.count("\n") == 1
    [listed] = machine.lines("token", "list", "--json")
    assert (listed["name"], listed["allow"], listed["caches"]) == ("ci", ["push", "read"], ["team-*"])
    assert listed["used"] is None
    assert done.stdout.strip() not in machine.do("token", "list")
    assert done.stdout.strip().rpartition("_")[2] not in machine.do("audit")


def test_what_makes_no_sense_is_refused_in_a_line(machine: Machine) -> None:
    assert "no catalog yet" in machine.refusal("token", "list")
    assert "no catalog yet" in machine.refusal("audit")
    create = ("token", "create", "ci", "--cache", "team")
    assert "write is not one of read, push" in machine.refusal(*create, "--allow", "read,write")
    assert "not a time such as 12h, 90d, 2w, 1y, or never" in machine.refusal(*create, "--expires", "tomorrow")
    assert "not a pattern" in machine.refusal("token", "create", "ci", "--cache", "a/b")
    assert "no name of a token" in machine.refusal("token", "create", "c i", "--cache", "a")
    machine.do(*create)
    assert "already" in machine.refusal(*create)
    assert "no token other" in machine.refusal("token", "revoke", "other")
    assert "no token of nobody" in machine.refusal("token", "revoke", "--holder", "nobody")
    machine.do("cache", "create", "team")
    assert "already" in machine.refusal("cache", "create", "team")
    assert "begin" in machine.refusal("cache", "create", "nar")
    assert "cache at /" in machine.refusal("cache", "configure", "default", "--public")
    assert "not a size" in machine.refusal("cache", "configure", "team", "--max-size", "much")
    assert "give --yes" in machine.refusal("cache", "delete", "team")
    assert "no cache other" in machine.refusal("cache", "show", "other")


def test_a_cache_is_what_it_was_made_and_changed_to(machine: Machine) -> None:
    machine.do("cache", "create", "team", "--priority", "30", "--max-size", "200G")
    machine.do("cache", "create", "open", "--public")
    machine.do("cache", "configure", "team", "--no-want-mass-query")
    caches = {row["name"]: row for row in machine.lines("cache", "list", "--json")}
    assert set(caches) == {"team", "open"}
    team = caches["team"]
    assert (team["public"], team["priority"], team["max_size"]) == (False, 30, 200 << 30)
    assert team["want_mass_query"] is False
    assert caches["open"]["public"] is True
    assert machine.lines("cache", "show", "team", "--json") == [team | {"paths": 0, "size": 0, "chunked_paths": 0}]
    machine.do("cache", "delete", "team", "--yes")
    assert [row["name"] for row in machine.lines("cache", "list", "--json")] == ["open"]


def test_every_change_is_in_the_audit_log(machine: Machine) -> None:
    machine.do("cache", "create", "team")
    machine.do("token", "create", "ci", "--cache", "team")
    machine.do("cache", "configure", "team", "--public")
    machine.do("token", "revoke", "ci")
    machine.do("cache", "delete", "team", "--yes")
    entries = machine.lines("audit")
    actions = ["cache.create", "token.create", "cache.configure", "token.revoke", "cache.delete"]
    assert [entry["action"] for entry in entries] == actions
    assert all(entry["principal"].startswith("user ") for entry in entries)
    assert entries[2]["detail"] == {"public": True}
    assert [entry["action"] for entry in machine.lines("audit", "--cache", "team")] == actions[::2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.closure = lab.build()
        lab.start_daemon()
        yield lab


@pytest.fixture(scope="module")
def keys(store: Lab) -> Keys:
    return store.secret_key("key-1")


def test_a_revoked_token_is_closed_in_every_worker_on_open_connections(
    store: Lab, machine: Machine, tmp_path: Path
) -> None:
    """`token revoke` is another process: what it changes, each worker sees before it answers the next request."""
    machine.do("cache", "create", "team", "--local-store")
    tokens = {name: machine.do("token", "create", name, "--cache", "team").strip() for name in ("ci", "laptop")}
    target = f"/team/{store.closure.top.hash_part}.narinfo"

    def ask(connection: http.client.HTTPConnection, name: str) -> tuple[int, bytes]:
        connection.request("GET", target, headers={"Authorization": f"Bearer {tokens[name]}"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    settings = settings_of(store) | {"workers": WORKERS}
    with Server(tmp_path, store.env, settings) as server, ExitStack() as stack:
        port = int(server.url.rpartition(":")[2])
        connections = [
            stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIME_LIMIT)))
            for _ in range(CONNECTIONS)
        ]
        for _ in range(3):
            assert [ask(one, name)[0] for one in connections for name in tokens] == [200] * (2 * CONNECTIONS)
        machine.do("token", "revoke", "ci")
        told = b"Unauthorized: the token ci was revoked; ask for another one\n"
        assert [ask(one, "ci") for one in connections] == [(401, told)] * CONNECTIONS
        assert {ask(one, "laptop")[0] for one in connections} == {200}
        machine.do("cache", "configure", "team", "--public")
        assert server.get(target).status == 200
        machine.do("cache", "delete", "team", "--yes")
        assert {server.get(target).status for _ in range(CONNECTIONS)} == {401}
    used = {row["name"]: row["used"] for row in machine.lines("token", "list", "--json")}
    assert all(used.values()), "the last uses are noted when the server ends"


def test_a_push_with_a_revoked_token_is_refused_on_open_connections(
    store: Lab, machine: Machine, tmp_path: Path
) -> None:
    """Before the body, and nothing of what it would have brought is there afterwards."""
    machine.do("cache", "create", "team")
    tokens = {
        name: machine.do("token", "create", name, "--cache", "team", "--allow", "read,push").strip()
        for name in ("ci", "laptop")
    }
    archive = store.dump(store.closure.top)
    target = f"/team/push/nar/{Hash.of(archive).nix32}.nar"

    def ask(connection: http.client.HTTPConnection, method: str, name: str) -> tuple[int, bytes]:
        body = archive if method == "PUT" else None
        connection.request(method, target, body, {"Authorization": f"Bearer {tokens[name]}"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    with Server(tmp_path, store.env, settings_of(store) | {"workers": WORKERS}) as server, ExitStack() as stack:
        port = int(server.url.rpartition(":")[2])
        connections = [
            stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIME_LIMIT)))
            for _ in range(CONNECTIONS)
        ]
        assert {ask(one, "HEAD", "ci")[0] for one in connections} == {404}
        machine.do("token", "revoke", "ci")
        told = b"Unauthorized: the token ci was revoked; ask for another one\n"
        assert {ask(one, "PUT", "ci") for one in connections} == {(401, told)}
        assert {ask(one, "HEAD", "laptop")[0] for one in connections} == {404}
        assert {ask(one, "PUT", "laptop")[0] for one in connections} == {200}


def test_a_server_takes_up_its_first_catalog_by_itself(store: Lab, machine: Machine, tmp_path: Path) -> None:
    """The first `cache create` took effect when the server was reloaded, every later one at once."""
    settings = settings_of(store) | {"workers": WORKERS}
    with Server(tmp_path, store.env, settings) as server:
        assert server.get("/open/nix-cache-info").status == 404
        assert not (tmp_path / "server" / "state" / "catalog.sqlite").exists(), "nothing needs a catalog"
        assert machine.run("cache", "create", "open", "--public").stderr == ""
        deadline = time.monotonic() + TIME_LIMIT
        while {server.get("/open/nix-cache-info").status for _ in range(CONNECTIONS)} != {200}:
            assert time.monotonic() < deadline, server.output()
            time.sleep(0.05)
        machine.do("cache", "create", "later", "--public")
        assert server.get("/later/nix-cache-info").status == 200


def test_nix_gets_into_a_private_cache_with_its_netrc(store: Lab, keys: Keys, machine: Machine, tmp_path: Path) -> None:
    machine.do("cache", "create", "team", "--local-store")
    token = machine.do("token", "create", "laptop", "--cache", "team").strip()
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1\nlogin anybody\npassword {token}\n")
    top = store.full(store.closure.top)
    with Server(tmp_path, store.env, settings_of(store, keys)) as server:
        client: Client = store.client("client")
        command = ("nix", "copy", "--from", f"{server.url}/team", "--no-check-sigs", top)
        assert client.run(*command, check=False).returncode != 0
        client.forget()
        client.run(*command, "--option", "netrc-file", str(netrc))
        assert client.run("nix-store", "--dump", str(client.real(store.closure.top))).stdout == store.dump(
            store.closure.top
        )


def test_stock_nix_pushes_into_a_team_cache_and_another_machine_substitutes_from_it(
    store: Lab, keys: Keys, machine: Machine, tmp_path: Path
) -> None:
    """What the how-to says, on a server that declares the cache."""
    settings = settings_of(store, keys) | {"workers": WORKERS, "caches": {"team": {}}}
    top = store.full(store.closure.top)
    with Server(tmp_path, store.env, settings) as server:
        [team] = machine.lines("cache", "list", "--json")
        assert (team["name"], team["declared"], team["public"]) == ("team", True, False)
        assert "declared in the configuration file" in machine.refusal("cache", "configure", "team", "--public")
        push = machine.do("token", "create", "ci", "--cache", "team*", "--allow", "read,push").strip()
        read = machine.do("token", "create", "laptop", "--cache", "team").strip()
        for name, token in (("push", push), ("read", read)):
            (tmp_path / name).write_text(f"machine 127.0.0.1\nlogin any\npassword {token}\n")

        def copy(netrc: str) -> subprocess.CompletedProcess[bytes]:
            url = f"{server.url}/team/push/{netrc}?compression=zstd"
            options = ("--option", "netrc-file", str(tmp_path / netrc))
            return store.run("nix", "copy", "--to", url, *options, top, check=False)

        # Nix 2.8 keeps the reason to itself when it is `nix-cache-info` that is refused.
        assert copy("read").returncode != 0
        answer = server.request("PUT", "/team/push/x.narinfo", {"Authorization": f"Bearer {read}"})
        assert answer.status == 403
        assert answer.body == b"Forbidden: the token laptop does not allow to push the cache team\n"
        pushed = copy("push")
        assert pushed.returncode == 0, pushed.stderr
        client: Client = store.client("pulling")
        pull = ("nix", "copy", "--from", f"{server.url}/team", "--no-check-sigs", top)
        assert client.run(*pull, check=False).returncode != 0
        client.forget()
        client.run(*pull, "--option", "netrc-file", str(tmp_path / "read"))
        assert client.run("nix-store", "--dump", str(client.real(store.closure.top))).stdout == store.dump(
            store.closure.top
        )
