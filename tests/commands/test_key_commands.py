"""`key`: what it prints, what it refuses, and what a running server signs with from then on."""

import base64
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest
from administering import Machine
from lab import Lab
from server import Server, settings_of

from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.signing import PublicKey

WORKERS: Final = 2
ASKED: Final = 12
DAY: Final = 86_400


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.closure = lab.build()
        lab.start_daemon()
        yield lab


def encryption_file(root: Path, name: str) -> Path:
    file = root / name
    file.write_text(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    file.chmod(0o600)
    return file


def encrypt_with(machine: Machine, file: Path | None) -> None:
    text = "" if file is None else f'key_encryption_file = "{file}"\n'
    (machine.root / "none.toml").write_text(text)


def catalog(machine: Machine) -> Path:
    return machine.root / "server" / "state" / "catalog.sqlite"


def test_the_public_key_alone_is_printed(machine: Machine) -> None:
    machine.do("cache", "create", "team")
    done = machine.run("key", "create", "team", "--name", "team-1")
    assert done.returncode == 0, done.stderr
    assert PublicKey.parse(done.stdout.strip()).name == "team-1"
    assert done.stdout.count("\n") == 1
    [listed] = machine.lines("key", "list", "team", "--json")
    assert listed["public_key"] == done.stdout.strip()
    assert (listed["state"], listed["until"], listed["encryption"]) == ("active", None, None)
    assert machine.do("key", "list", "team") == f"{done.stdout.strip()}  signs: clients must trust it\n"


def test_keys_are_numbered_and_a_name_never_comes_again(machine: Machine) -> None:
    """Clients tell keys by their names: two keys of one name would make them refuse what is signed well."""
    machine.do("cache", "create", "team")
    (machine.root / "none.toml").write_text('base_url = "https://cache.example.org/"\n')
    names = [PublicKey.parse(machine.do("key", "create", "team").strip()).name]
    machine.do("key", "retire", "team", names[0])
    names.append(PublicKey.parse(machine.do("key", "create", "team").strip()).name)
    names.append(PublicKey.parse(machine.do("key", "rotate", "team").strip()).name)
    assert names == [f"cache.example.org-team-{number}" for number in (1, 2, 3)]
    assert "already" in machine.refusal("key", "rotate", "team", "--name", names[0])
    assert [row["name"] for row in machine.lines("key", "list", "team", "--json") if row["state"] == "active"] == names[
        2:
    ]


def test_after_a_rotation_the_list_says_until_when_the_old_key_is_needed(machine: Machine) -> None:
    machine.do("cache", "create", "team")
    machine.do("key", "create", "team", "--name", "team-1")
    before = time.time()
    done = machine.run("key", "rotate", "team", "--name", "team-2", "--overlap", "60d")
    assert PublicKey.parse(done.stdout.strip()).name == "team-2"
    old, new = sorted(machine.lines("key", "list", "team", "--json"), key=lambda row: str(row["name"]))
    assert (old["state"], new["state"], new["until"]) == ("retiring", "active", None)
    assert -1 <= datetime.fromisoformat(old["until"]).timestamp() - before - 60 * DAY <= 60
    assert f"team-1 signs as well until {old['until']}" in done.stderr
    assert f"signs until {old['until']}: clients that do not trust its successor" in machine.do("key", "list", "team")
    machine.do("key", "retire", "team", "team-1")
    [old] = [row for row in machine.lines("key", "list", "team", "--json") if row["name"] == "team-1"]
    assert old["state"] == "retired"


def test_what_makes_no_sense_is_refused_in_a_line(machine: Machine) -> None:
    assert "no catalog yet" in machine.refusal("key", "list", "team")
    machine.do("cache", "create", "team")
    assert "no cache other" in machine.refusal("key", "create", "other")
    assert "cache at /" in machine.refusal("key", "create", "default")
    assert "`key create`" in machine.refusal("key", "rotate", "team")
    assert "white space" in machine.refusal("key", "create", "team", "--name", "a b")
    machine.do("key", "create", "team", "--name", "team-1")
    assert "`key rotate`" in machine.refusal("key", "create", "team")
    assert "not a time such as" in machine.refusal("key", "rotate", "team", "--overlap", "soon")
    assert "no key team-2 signs" in machine.refusal("key", "retire", "team", "team-2")
    assert "signs nothing now" in machine.run("key", "retire", "team", "team-1").stderr
    assert "no key team-1 signs" in machine.refusal("key", "retire", "team", "team-1")


def test_every_change_of_a_key_is_in_the_audit_log_without_its_secret(machine: Machine) -> None:
    machine.do("cache", "create", "team")
    machine.do("key", "create", "team", "--name", "team-1")
    public_key = machine.do("key", "rotate", "team", "--name", "team-2").strip()
    machine.do("key", "retire", "team", "team-1")
    entries = machine.lines("audit", "--cache", "team")[1:]
    changes = [(entry["action"], entry["subject"]) for entry in entries]
    assert changes == [("key.create", "team-1"), ("key.rotate", "team-2"), ("key.retire", "team-1")]
    assert entries[1]["detail"]["public_key"] == public_key
    assert set(entries[1]["detail"]) == {"public_key", "until"}


def test_a_new_key_is_not_encrypted_otherwise_than_those_that_sign(machine: Machine) -> None:
    """With a wrong credential `key rotate` would make a cache that no credential opens."""
    right, wrong = (encryption_file(machine.root, name) for name in ("right", "wrong"))
    machine.do("cache", "create", "team")
    encrypt_with(machine, right)
    machine.do("key", "create", "team", "--name", "team-1")
    [listed] = machine.lines("key", "list", "team", "--json")
    assert listed["encryption"] == "secretbox"
    encrypt_with(machine, wrong)
    assert "key_encryption_file names another file" in machine.refusal("key", "rotate", "team")
    encrypt_with(machine, None)
    assert "name in key_encryption_file" in machine.refusal("key", "rotate", "team")
    encrypt_with(machine, machine.root / "nowhere")
    assert "nowhere: key_encryption_file: No such file" in machine.refusal("key", "rotate", "team")
    assert "nowhere: key_encryption_file: No such file" in machine.refusal("check-config")
    encrypt_with(machine, wrong)
    machine.do("key", "retire", "team", "team-1")
    machine.do("key", "create", "team", "--name", "team-2")
    states = [(row["name"], row["state"]) for row in machine.lines("key", "list", "team", "--json")]
    assert sorted(states) == [("team-1", "retired"), ("team-2", "active")]


class Signed:
    """A server of the cache `team`, which has the local store, and the names of the keys that sign its narinfos."""

    def __init__(self, server: Server, lab: Lab) -> None:
        self.server = server
        self._store_dir = lab.store_dir
        self._target = f"/team/{lab.closure.top.hash_part}.narinfo"

    def signers(self) -> set[tuple[str, ...]]:
        """The names in each of many answers, by whichever worker."""
        return {self._signers() for _ in range(ASKED)}

    def _signers(self) -> tuple[str, ...]:
        answer = self.server.get(self._target)
        assert answer.status == 200, self.server.output()
        narinfo = NarInfo.parse(answer.body, self._store_dir)
        return tuple(signature.key_name for signature in narinfo.path_info.signatures)

    def statuses(self) -> set[int]:
        return {self.server.get(self._target).status for _ in range(ASKED)}


def test_a_running_server_signs_at_once_with_what_key_has_made_and_no_longer_with_what_it_retired(
    store: Lab, machine: Machine, tmp_path: Path
) -> None:
    machine.do("cache", "create", "team", "--local-store", "--public")
    with Server(tmp_path, store.env, settings_of(store) | {"workers": WORKERS}) as server:
        signed = Signed(server, store)
        assert signed.signers() == {()}
        machine.do("key", "create", "team", "--name", "team-1")
        assert signed.signers() == {("team-1",)}
        machine.do("key", "rotate", "team", "--name", "team-2")
        assert signed.signers() == {("team-1", "team-2")}
        [until] = [row["until"] for row in machine.lines("key", "list", "team", "--json") if row["name"] == "team-1"]
        page = server.get("/team/").body.decode()
        assert page.count("It signs until") == 1
        assert f"It signs until {until[:10]}, beside its successor." in page
        machine.do("key", "retire", "team", "team-1")
        assert signed.signers() == {("team-2",)}


def test_a_server_with_a_wrong_credential_serves_nothing_rather_than_what_is_not_signed(
    store: Lab, machine: Machine, tmp_path: Path
) -> None:
    right, wrong = (encryption_file(machine.root, name) for name in ("right", "wrong"))
    machine.do("cache", "create", "team", "--local-store", "--public")
    machine.do("cache", "create", "open", "--local-store", "--public")
    encrypt_with(machine, right)
    machine.do("key", "create", "team", "--name", "team-1")
    settings = settings_of(store) | {"workers": 1}
    with Server(tmp_path, store.env, settings | {"key_encryption_file": str(right)}) as server:
        assert Signed(server, store).signers() == {("team-1",)}
    for given in ({}, {"key_encryption_file": str(wrong)}):
        with Server(tmp_path, store.env, settings | given) as server:
            assert Signed(server, store).statuses() == {503}
            assert "team-1" not in server.get("/team/nix-cache-info").body.decode()
            assert server.get("/open/nix-cache-info").status == 200, "the others are not touched"
            assert "key_encryption_file" in server.output()


def test_a_server_does_not_sign_with_a_row_that_was_tampered_with(store: Lab, machine: Machine, tmp_path: Path) -> None:
    machine.do("cache", "create", "team", "--local-store", "--public")
    machine.do("cache", "create", "other")
    encrypt_with(machine, encryption_file(machine.root, "right"))
    machine.do("key", "create", "other", "--name", "key-1")
    with closing(sqlite3.connect(catalog(machine))) as database, database:
        database.execute("update signing_keys set cache_id = (select id from caches where name = 'team')")
    settings = settings_of(store) | {"key_encryption_file": str(machine.root / "right")}
    with Server(tmp_path, store.env, settings | {"workers": 1}) as server:
        assert Signed(server, store).statuses() == {503}
        assert "was changed in the catalog" in server.output()
