"""`harmonia-py import attic`: a server of Attic, whole and damaged, becomes one of ours."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

import asyncpg
import prefork
import pytest
import tomli_w
from attic_client import AtticClient, Path, make_token, of_lab, of_pushed, secret_base64
from attic_tree import AtticTree
from lab import Lab
from postgresql import shared
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE
from s3_double import Object, S3Double, credentials_file
from seaweed import Bucket, environment
from server import Server, settings_of

from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StorePath


class Place:
    """A server of Attic, and the state directory of ours."""

    def __init__(self, root: FilePath) -> None:
        self.tree = AtticTree(root)
        self.root = root
        self.config = root / "harmonia.toml"
        self.configure()

    def configure(self, **settings: Any) -> None:
        self.config.write_text(tomli_w.dumps({"state_directory": str(self.root / "state"), **settings}))

    def command(self, *arguments: str, status: int = 0) -> str:
        done = prefork.run(
            *arguments,
            "--config",
            str(self.config),
            cwd=self.root,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.root)},
        )
        assert done.returncode == status, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 or done.stdout else done.stderr

    def take(self, *arguments: str, status: int = 0) -> Any:
        """What the command reports."""
        config = self.tree.write_config()
        return json.loads(
            self.command("import", "attic", "--server-config", str(config), "--json", *arguments, status=status)
        )


@pytest.fixture
def place(tmp_path: FilePath) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.tree.close()


@pytest.mark.default_backing
def test_a_server_of_attic_moves_and_its_clients_notice_nothing(daemon: Lab, tmp_path: FilePath) -> None:
    place = Place(tmp_path)
    key = SecretKey.generate("team")
    cache = place.tree.cache("team", key=key, store_dir=daemon.store_dir, upstreams=(), retention=2_592_000)
    paths = of_lab(daemon, daemon.closure.top)
    for path, compression in zip(paths, ["zstd", "xz", "br", "none"] * len(paths), strict=False):
        place.tree.path(cache, path, chunk_size=700, compression=compression)
    settings = settings_of(daemon) | {"attic": {"enabled": True}}
    settings["state_directory"] = str(tmp_path / "server" / "state")
    place.configure(virtual_nix_store=daemon.store_dir, state_directory=settings["state_directory"])
    report = place.take()
    assert report["team"]["paths"] == len(paths)
    assert not report["team"]["failed"]
    assert not report["team"]["waiting"]
    again = place.take()
    assert (again["team"]["paths"], again["team"]["present"]) == (0, len(paths))
    env = daemon.env | {"ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64": secret_base64()}
    token = make_token("alice", {"team": {"r": 1, "w": 1}})
    with Server(tmp_path, env, settings) as server:
        attic = AtticClient(server.url, token)
        told = attic.config("team").json
        assert told["public_key"] == str(key.public_key)
        assert told["retention_period"] == {"Period": 2_592_000}
        assert attic.push("team", paths) == {}
        client = daemon.client("machine")
        (client.root / "netrc").write_text(f"machine 127.0.0.1\npassword {token}\n")
        options = {
            "substituters": f"{server.url}/team",
            "trusted-public-keys": str(key.public_key),
            "netrc-file": str(client.root / "netrc"),
        }
        flags = [word for name, value in options.items() for word in ("--option", name, value)]
        client.nix_store("--realise", daemon.full(daemon.closure.top), *flags)
        assert client.real(daemon.closure.top).exists()
    place.tree.close()


def test_what_there_is_is_said_before(place: Place) -> None:
    cache = place.tree.cache("team")
    place.tree.cache("gone", deleted=True)
    place.tree.path(cache, of_pushed(GLIBC))
    assert place.take("--dry-run", "--rename", "team=crew") == {
        "team": {"as": "crew", "paths": 1, "nar_size": len(GLIBC.data)}
    }
    assert not (place.root / "state").exists()
    text = place.command("import", "attic", "--database", place.tree.url, "--dry-run")
    assert text == f"team: 1 path, {len(GLIBC.data)} bytes of NARs, to become team\n"


def test_nothing_is_taken_over_into_a_bucket_of_another_catalog(place: Place, double: S3Double) -> None:
    """Each NAR was put together and checked, and then refused by the bucket."""
    place.tree.path(place.tree.cache("team"), of_pushed(GLIBC))
    place.configure(storage={"url": double.url("kept"), "credentials_file": str(credentials_file(place.root))})
    double.objects["kept/.catalog"] = Object(b"f" * 32, {})
    config = place.tree.write_config()
    told = place.command("import", "attic", "--server-config", str(config), status=1)
    assert "error: s3://double/kept belongs to another catalog" in " ".join(told.split())
    assert "team" not in place.command("cache", "list")
    assert list(double.objects) == ["kept/.catalog"]


def test_settings_and_keys_come_along(place: Place) -> None:
    key = SecretKey.generate("open-key")
    place.tree.cache("open", key=key, public=True, retention=0)
    place.tree.cache("short", retention=60)
    place.tree.cache("usual")
    place.tree.write_config()
    config = place.tree.write_config(**{"garbage-collection": {"default-retention-period": "6 months 1day"}})
    place.command("import", "attic", "--server-config", str(config))
    shown = {name: json.loads(place.command("cache", "show", name, "--json")) for name in ("open", "short", "usual")}
    assert [shown[name]["public"] for name in shown] == [True, False, False]
    assert [shown[name]["priority"] for name in shown] == [41, 41, 41]
    assert [shown[name]["keep_unused"] for name in shown] == [None, 60, 6 * 2_630_016 + 86_400]
    assert shown["open"]["upstream_key_names"] == ["cache.nixos.org-1"]
    (listed,) = place.command("key", "list", "open", "--json").splitlines()
    assert json.loads(listed)["public_key"] == str(key.public_key)
    entries = [json.loads(line) for line in place.command("audit").splitlines()]
    assert {entry["principal"] for entry in entries} == {"import attic"}
    assert key.format().partition(":")[2] not in place.command("audit")


def test_a_reference_that_attic_left_to_its_upstream_is_not_waited_for(place: Place) -> None:
    cache = place.tree.cache("team")
    place.tree.path(cache, of_pushed(HELLO))
    assert place.take()["team"]["waiting"] == {}


def test_a_reference_that_nothing_has_is_said(place: Place) -> None:
    cache = place.tree.cache("team", upstreams=())
    place.tree.path(cache, of_pushed(HELLO))
    told = place.take(status=1)["team"]
    assert told["waiting"] == {PATH: f"Attic does not have {REFERENCE.hash_part}, which it references"}


def test_a_path_before_its_reference(place: Place) -> None:
    cache = place.tree.cache("team")
    place.tree.path(cache, of_pushed(HELLO))
    place.tree.path(cache, of_pushed(GLIBC))
    told = place.take()["team"]
    assert (told["paths"], told["waiting"], told["failed"]) == (2, {}, {})


def test_two_caches_that_share_a_nar(place: Place) -> None:
    nar = place.tree.path(place.tree.cache("a"), of_pushed(GLIBC))
    place.tree.path(place.tree.cache("b"), of_pushed(GLIBC), nar=nar)
    report = place.take()
    assert [report[name]["paths"] for name in ("a", "b")] == [1, 1]


DAMAGE = {
    "lost file": lambda file: file.unlink(),
    "cut file": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "rotten file": lambda file: file.write_bytes(b"\0" + file.read_bytes()[1:]),
    "empty file": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_damaged_chunk_spoils_one_path(place: Place, damage: str, compression: str) -> None:
    """Attic answers such a NAR with a body that ends in the middle, and a push of it is "deduplicated"."""
    cache = place.tree.cache("team")
    nar = place.tree.path(cache, of_pushed(GLIBC), chunk_size=50, compression=compression)
    other = Path(
        StorePath("7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-other"), (), HELLO.data, of_pushed(HELLO).nar_hash, len(HELLO.data)
    )
    place.tree.path(cache, other)
    DAMAGE[damage](place.tree.chunk_files(nar)[1])
    told = place.take(status=1)["team"]
    assert told["paths"] == 1
    assert list(told["failed"]) == [REFERENCE]
    assert told["failed"][REFERENCE]


@pytest.mark.parametrize(
    "change",
    [
        "update nar set state = 'P'",
        "delete from chunkref where seq = 1",
        "update chunkref set chunk_id = null where seq = 1",
        "update chunkref set seq = 7 where seq = 1",
        "update chunk set state = 'D'",
        "update chunk set compression = 'lzma'",
        "update nar set nar_size = nar_size - 1",
        "update nar set nar_size = nar_size + 1",
        "update nar set nar_hash = 'sha256:' || substr(nar_hash, 9) || '0'",
        "update object set store_path = '/gnu/store/' || store_path_hash || '-x'",
        "update object set store_path = '/nix/store/../etc/passwd'",
        'update object set "references" = \'["a\\nSig: x"]\'',
        "update object set \"references\" = '{}'",
        "update object set ca = 'fixed:md5:0' || char(10) || 'Sig: x'",
        "update object set deriver = 'x'",
    ],
)
def test_a_row_that_says_something_else_spoils_one_path(place: Place, change: str) -> None:
    cache = place.tree.cache("team")
    place.tree.path(cache, of_pushed(GLIBC), chunk_size=50)
    place.tree.run(change)
    told = place.take(status=1)["team"]
    assert (told["paths"], len(told["failed"])) == (0, 1)


def test_a_name_of_a_file_leads_nowhere_else(place: Place) -> None:
    """The name is joined to a path: `../../etc/shadow` would be read, and pushed as part of a NAR."""
    secret = place.tree.root / "secret"
    secret.write_bytes(b"secret")
    cache = place.tree.cache("team")
    place.tree.path(cache, of_pushed(GLIBC), compression="none")
    for name in ("../secret", str(secret), "..", "", "a/../../secret", "a\0b"):
        place.tree.run("update chunk set remote_file = ?", json.dumps({"Local": {"name": name}}))
        told = place.take(status=1)["team"]
        assert told["failed"] == {REFERENCE: "a chunk of its NAR is neither in a directory nor in a bucket"}


def test_a_cache_that_cannot_be_one_of_ours(place: Place) -> None:
    for name in ("default", "metrics"):
        place.tree.cache(name)
    place.tree.cache("guix", store_dir="/gnu/store")
    place.tree.run("update cache set keypair = 'none' where name = ?", "keyless") if place.tree.cache(
        "keyless"
    ) else None
    report = place.take(status=1)
    assert {name: bool(one["failed"]) for name, one in report.items()} == dict.fromkeys(report, True)
    assert len(report) == 4
    renamed = place.take("--cache", "default", "--rename", "default=main")
    assert not renamed["main"]["failed"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["one=three", "two=three"], "two caches would have one name"),
        (["one=two"], "two caches would have one name"),
        (["onee=three"], "no cache onee is to be taken over"),
        (["one"], "takes OLD=NEW"),
        (["one=no name"], "no name"),
    ],
)
def test_names_that_cannot_be_given(place: Place, names: list[str], words: str) -> None:
    for name in ("one", "two"):
        place.tree.cache(name)
    config = place.tree.write_config()
    options = [f"--rename={name}" for name in names]
    assert words in place.command("import", "attic", "--server-config", str(config), *options, status=1)


def test_caches_exchange_their_names(place: Place) -> None:
    for name in ("one", "two"):
        place.tree.cache(name, key=SecretKey.generate(f"of-{name}"))
    report = place.take("--rename", "one=two", "--rename", "two=one")
    assert sorted(report) == ["one", "two"]
    (key,) = (json.loads(line) for line in place.command("key", "list", "one", "--json").splitlines())
    assert key["name"] == "of-two"


def test_a_cache_that_is_there_keeps_its_settings_and_signs_with_both_keys(place: Place) -> None:
    place.command("cache", "create", "team", "--public")
    place.command("key", "create", "team", "--name", "ours-1")
    key = SecretKey.generate("theirs")
    place.tree.cache("team", key=key)
    (note,) = place.take()["team"]["notes"]
    assert "theirs signs as well" in note
    place.command("cache", "configure", "team", "--upstream-key-name", "a-1", "--upstream-key-name", "b-1")
    shown = json.loads(place.command("cache", "show", "team", "--json"))
    assert (shown["public"], shown["upstream_key_names"]) == (True, ["a-1", "b-1"])
    listed = [json.loads(line) for line in place.command("key", "list", "team", "--json").splitlines()]
    assert [(row["name"], row["state"]) for row in listed] == [("ours-1", "active"), ("theirs", "active")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--database", "sqlite:///nowhere/server.db"], "there is no database of Attic"),
        (["--database", "mysql://x/y"], "begins with sqlite:// or postgresql://"),
        (["--server-config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_what_is_no_server_of_attic_is_said(place: Place, arguments: list[str], words: str) -> None:
    assert words in place.command("import", "attic", *arguments, status=1)
    place.tree.run("drop table object")
    place.tree.cache("team")
    told = place.command("import", "attic", "--database", place.tree.url, status=1)
    assert "not the database of a server of Attic" in told
    assert STORE not in told


def test_a_database_that_cannot_be_read_now_is_not_called_that_of_something_else(place: Place) -> None:
    """Whatever was wrong, a disk or a lock, was said to be no database of Attic."""
    place.tree.cache("team")
    place.tree.database.write_bytes(b"no database at all, and longer than a page's header " * 100)
    told = place.command("import", "attic", "--database", place.tree.url, status=1)
    assert "not the database of a server of Attic" in told
    place.tree.database.unlink()
    place.tree.database.symlink_to("/proc/self/mem")
    told = place.command("import", "attic", "--database", place.tree.url, status=1)
    assert "not the database of a server of Attic" not in told


@pytest.mark.postgresql
def test_a_catalog_in_postgresql(place: Place) -> None:
    """The rows of an SQLite database, in the tables that migrations of Attic make there."""
    place.tree.path(place.tree.cache("team", public=True), of_pushed(GLIBC), chunk_size=50)
    url = shared().database()
    asyncio.run(copied_to(url, place.tree))
    told = place.command("import", "attic", "--database", url, "--storage", str(place.tree.storage), "--json")
    assert json.loads(told)["team"]["paths"] == 1
    assert json.loads(place.command("cache", "show", "team", "--json"))["public"] is True


@pytest.mark.s3
def test_chunks_in_a_bucket(place: Place, bucket: Bucket) -> None:
    nar = place.tree.path(place.tree.cache("team"), of_pushed(GLIBC), chunk_size=50)
    lost = place.tree.path(place.tree.cache("other"), of_pushed(HELLO))
    for file in (*place.tree.chunk_files(nar), *place.tree.chunk_files(lost)):
        bucket.store().put(file.name, file.read_bytes())
        where = {"S3": {"region": "us-east-1", "bucket": bucket.name, "key": file.name}}
        place.tree.run("update chunk set remote_file = ? where remote_file like ?", json.dumps(where), f"%{file.name}%")
        file.unlink()
    bucket.store().delete(where["S3"]["key"])
    keys = {"access_key_id": environment()["AWS_ACCESS_KEY_ID"]}
    keys["secret_access_key"] = environment()["AWS_SECRET_ACCESS_KEY"]
    storage = {"type": "s3", "region": "us-east-1", "bucket": bucket.name, "endpoint": bucket.endpoint}
    config = place.tree.write_config(storage=storage | {"credentials": keys})
    told = json.loads(
        place.command(
            "import", "attic", "--server-config", str(config), "--json", "--cache", "team", "--cache", "other", status=1
        )
    )
    assert (told["team"]["paths"], told["team"]["failed"]) == (1, {})
    assert told["other"]["failed"] == {PATH: f"the object {where['S3']['key']} of a chunk is not there"}


async def copied_to(url: str, tree: AtticTree) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in POSTGRES_TABLES:
            await connection.execute(statement)
        for table, columns in COLUMNS.items():
            for row in tree.rows(f"select {columns} from {table}"):  # constants
                marks = ", ".join(f"${number}" for number in range(1, len(row) + 1))
                names = columns.split(", ")
                values = [bool(one) if name == "is_public" else one for name, one in zip(names, row, strict=True)]
                await connection.execute(f"insert into {table} ({columns}) values ({marks})", *values)
    finally:
        await connection.close()


POSTGRES_TABLES = (
    """create table cache (id bigserial primary key, name varchar(50) not null, keypair varchar not null,
        is_public bool not null, store_dir varchar not null, priority integer not null,
        upstream_cache_key_names varchar not null, created_at timestamptz not null default now(),
        deleted_at timestamptz, retention_period integer)""",
    """create table nar (id bigserial primary key, state char(1) not null, nar_hash varchar not null,
        nar_size bigint not null, compression varchar not null, num_chunks integer not null)""",
    """create table chunk (id bigserial primary key, state char(1) not null, compression varchar not null,
        remote_file varchar not null)""",
    """create table chunkref (id bigserial primary key, nar_id bigint not null, seq integer not null,
        chunk_id bigint)""",
    """create table object (id bigserial primary key, cache_id bigint not null, nar_id bigint not null,
        store_path_hash varchar(32) not null, store_path varchar not null, "references" varchar not null,
        system varchar, deriver varchar, sigs varchar not null, ca varchar)""",
)
COLUMNS = {
    "cache": "id, name, keypair, is_public, store_dir, priority, upstream_cache_key_names",
    "nar": "id, state, nar_hash, nar_size, compression, num_chunks",
    "chunk": "id, state, compression, remote_file",
    "chunkref": "id, nar_id, seq, chunk_id",
    "object": 'id, cache_id, nar_id, store_path_hash, store_path, "references", sigs, ca',
}
