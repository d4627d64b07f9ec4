"""How-to guides, typed from their pages, where /etc, the name of the cache and the store dir are the test's own."""

import json
import lzma
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import tomli_w
from lab import Client, Lab
from pages import Page, Shell
from reloading import reload
from server import Server, settings_of

pytestmark = pytest.mark.slow

CACHE: Final = "https://cache.example.org"
HOST: Final = "cache.example.org"


class Place:
    """A server that is configured in `etc`, and what its pages call by other names."""

    def __init__(self, root: Path, lab: Lab) -> None:
        self.lab = lab
        self.etc = root / "etc-harmonia-py"
        self.etc.mkdir()
        self.settings: dict[str, Any] = settings_of(lab) | {"state_directory": str(root / "server" / "state")}
        self.server = Server(root, lab.env, self.settings)
        self.shell = Shell(root / "here", self._env(lab.env, root / "server"), {})

    def _env(self, env: dict[str, str], server: Path) -> dict[str, str]:
        return env | {"CONFIG_FILE": str(server / "harmonia.toml"), "STATE_DIRECTORY": str(server / "state")}

    def words(self, **others: str) -> dict[str, str]:
        top = self.lab.full(self.lab.closure.top)
        mine = {f"machine {HOST}": "machine 127.0.0.1", CACHE: self.server.url, "/etc/harmonia-py": str(self.etc)}
        return mine | {"/nix/store/…": top, "./result": top} | others

    def start(self) -> None:
        self.server.__enter__()
        self.shell.words = self.words()

    def configure(self, **settings: Any) -> None:
        """What a page says is to be written into the configuration, and the reload that it asks for."""
        self.settings |= settings
        (self.server.root / "harmonia.toml").write_text(tomli_w.dumps(self.settings))
        reload(self.server)

    def client(self, name: str) -> tuple[Client, Shell]:
        client = self.lab.client(name)
        return client, Shell(client.root / "there", client.env, self.words())


@pytest.fixture
def place(tmp_path: Path, daemon: Lab) -> Iterator[Place]:
    place = Place(tmp_path, daemon)
    place.start()
    try:
        yield place
    finally:
        place.server.stop()


def settings_in(place: Place, block: str) -> dict[str, Any]:
    return tomllib.loads(place.shell.in_words(block))


def realise(place: Place, client: Client, *options: str, path: str = "", check: bool = True) -> int:
    top = place.lab.full(place.lab.closure.top)
    where = ("--option", "substituters", f"{place.server.url}{path}")
    return client.run("nix-store", "--realise", top, *where, *options, check=check).returncode


def test_a_cache_for_all_who_have_a_token(place: Place) -> None:
    page = Page("how-to/private.md")
    token = place.shell.run(page.blocks("sh")[0]).stdout.strip()
    place.configure(**settings_in(place, page.blocks("toml")[0]))
    assert place.server.get("/health").status == 200
    assert place.server.get("/nix-cache-info").status == 401
    client, there = place.client("client")
    netrc = client.root / "netrc"
    netrc.write_text(there.in_words(page.blocks("text")[0]).replace("TOKEN", token))
    option = page.blocks("ini")[0].splitlines()[-1].partition(" = ")[0]
    unsigned = ("--option", "require-sigs", "false")
    assert realise(place, client, *unsigned, check=False) != 0
    client.forget()
    assert realise(place, client, *unsigned, "--option", option, str(netrc)) == 0
    # "delete its line, reload"
    (place.etc / "tokens").write_text("# none\n")
    reload(place.server)
    assert place.server.get("/nix-cache-info", {"Authorization": f"Bearer {token}"}).status == 401


def test_caches_for_teams(place: Place) -> None:
    page = Page("how-to/private.md")
    _, make, push = page.blocks("sh")
    laptop = place.shell.run(make).stdout.strip()
    reload(place.server)  # "only the very first cache or token needs a reload of it"
    table = [words for words in page.commands("harmonia-py") if words[0] in {"token", "cache", "key", "audit"}]
    (weak,) = [words for words in table if "team-*" in words]
    made = place.shell.run("harmonia-py " + " ".join(weak).replace("team-*", "'team*'")).stdout.strip()
    (place.shell.directory / "netrc").write_text(f"machine 127.0.0.1 login nix password {made}\n")
    assert "copying 3 paths" in place.shell.run(push).stderr
    key = place.shell.run("harmonia-py key create team").stdout.strip()
    client, _ = place.client("client")
    netrc = client.root / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login nix password {laptop}\n")
    options = ("--option", "trusted-public-keys", key, "--option", "netrc-file", str(netrc))
    assert realise(place, client, *options, path="/team") == 0
    for words in table:
        if words[:2] in (["token", "list"], ["cache", "list"], ["cache", "show"], ["audit"]):
            assert "team" in place.shell.run("harmonia-py " + " ".join(words)).stdout
    place.shell.run("harmonia-py cache configure team --public")
    assert place.server.get("/team/nix-cache-info").status == 200
    place.shell.run("harmonia-py cache configure team --no-public")
    assert place.server.get("/team/nix-cache-info").status == 401
    bearer = {"Authorization": f"Bearer {laptop}"}
    assert place.server.get("/team/nix-cache-info", bearer).status == 200
    place.shell.run("harmonia-py token revoke laptop")
    assert place.server.get("/team/nix-cache-info", bearer).status == 401


def test_a_part_of_the_store(place: Place, tmp_path: Path) -> None:
    block = Page("how-to/private.md").blocks("toml")[1]
    roots = tmp_path / "roots"
    roots.mkdir()
    (roots / "one").symlink_to(place.lab.full(place.lab.closure.input2))
    place.shell.words |= {"/nix/var/nix/profiles/system": str(roots / "one"), "/var/lib/ci/gcroots": str(roots)}
    place.configure(**settings_in(place, block))
    closure = place.lab.closure
    status = {
        path: place.server.get(f"/{path.hash_part}.narinfo").status
        for path in (closure.top, closure.input2, closure.input0)
    }
    assert status == {closure.top: 404, closure.input2: 200, closure.input0: 200}


def test_a_key_is_changed(place: Place) -> None:
    page = Page("how-to/keys.md")
    old = place.shell.run(f"harmonia-py generate-key {HOST}-1 --output {place.etc}/{HOST}-1.secret").stdout.strip()
    place.configure(sign=True, sign_key_paths=[f"{place.etc}/{HOST}-1.secret"])
    new = place.shell.run(page.blocks("sh")[0]).stdout.strip()
    place.configure(**settings_in(place, page.blocks("toml")[0]))
    for number, key in enumerate((old, new)):
        assert realise(place, place.client(f"c{number}")[0], "--option", "trusted-public-keys", key) == 0
    (again,) = [words for words in page.commands("harmonia-py") if words[0] == "public-key"]
    assert new in place.shell.run("harmonia-py " + " ".join(again)).stdout


def test_keys_of_other_caches_encrypted(place: Place) -> None:
    page = Page("how-to/keys.md")
    _, encrypt = page.blocks("sh")
    place.shell.run(encrypt)
    place.configure(**settings_in(place, page.blocks("toml")[1]))
    place.shell.run("harmonia-py cache create team")
    reload(place.server)
    first = place.shell.run("harmonia-py key create team").stdout.strip()
    second = place.shell.run("harmonia-py key rotate team --overlap 60d").stdout.strip()
    assert first != second
    listed = place.shell.run("harmonia-py key list team").stdout
    assert all(key.partition(":")[0] in listed for key in (first, second))
    place.shell.run(f"harmonia-py key retire team {first.partition(':')[0]}")
    assert "key" in place.shell.run("harmonia-py audit --cache team").stdout


def test_a_runner_pushes_and_takes(place: Place) -> None:
    page = Page("how-to/ci.md")
    push = next(block for block in page.blocks("sh") if block.startswith("printf"))
    take = next(block for block in page.blocks("sh") if block.startswith("mkdir"))
    place.shell.run("harmonia-py cache create team --public")
    reload(place.server)
    token = place.shell.run("harmonia-py token create ci --cache team --allow read,push").stdout.strip()
    assert "copying 3 paths" in place.shell.run(push, CACHE_TOKEN=token, CI_RUN_ID="7").stderr
    key = place.shell.run("harmonia-py key create team").stdout.strip()
    client, there = place.client("runner")
    there.words |= {f"{HOST}-1:…": key, CACHE: f"{place.server.url}/team"}
    there.run(take)
    conf = client.home / ".config" / "nix" / "nix.conf"
    conf.write_text("substituters =\n" + conf.read_text())  # the tests ask no cache of the internet
    there.run(f"nix-store --realise {place.lab.full(place.lab.closure.top)}")
    assert client.real(place.lab.closure.top).exists()


def test_a_directory_of_files_is_copied_into_the_store(place: Place, tmp_path: Path) -> None:
    (copy,) = Page("how-to/migrate.md").blocks("sh")
    key = place.lab.secret_key("old-cache")
    files = tmp_path / "files"
    place.lab.nix("copy", "--to", f"file://{files}?secret-key={key.secret_file}", place.lab.full(place.lab.closure.top))
    client, there = place.client("client")
    there.words["/srv/cache"] = str(files)
    there.run(copy, NIX_CONFIG=f"trusted-public-keys = {key.public}\nexperimental-features =")
    assert client.real(place.lab.closure.top).exists()


def test_releases_are_kept_and_the_rest_goes(place: Place) -> None:
    page = Page("how-to/keep.md")
    configure, pin, by_ci, rules, shown, dry_run, why, delete = page.blocks("sh")
    place.shell.run("harmonia-py cache create team")
    reload(place.server)
    allowed = "read,push,pin"
    token = place.shell.run(f"harmonia-py token create ci --cache team --allow {allowed}").stdout.strip()
    netrc = place.shell.directory / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login nix password {token}\n")
    nix = "nix --extra-experimental-features nix-command copy --netrc-file ./netrc"
    place.shell.run(f"{nix} --to '{CACHE}/team/push/1?compression=zstd' ./result")
    top = place.lab.closure.top
    place.shell.run(configure)
    assert "release: revision 1 is" in place.shell.run(pin).stdout
    assert top in place.shell.run(by_ci).stdout
    rules_said = place.shell.run(rules).stdout
    assert "nightly: revision 1" in rules_said
    assert "v1.0: revision 1" in rules_said
    answer = place.server.get("/team/pin/release", {"Authorization": f"Bearer {token}"})
    assert (answer.status, answer.headers["Location"]) == (302, f"../path/{top.hash_part}")
    assert "keeps" in place.shell.run(shown).stdout
    assert "the pin release keeps 3 paths" in place.shell.run(dry_run).stdout
    assert "is kept by the pin release" in place.shell.run(why).stdout
    refused = place.shell.run(delete, check=False)
    assert refused.returncode == 1
    assert "the pin release names it" in refused.stderr
    for name in ("release", "v1.0"):
        place.shell.run(f"harmonia-py pin remove team {name}")
    gone = place.shell.run("harmonia-py delete team ./result --closure --despite-pushes").stdout
    assert "3 paths deleted" in gone


def test_another_cache_is_mirrored(place: Place, tmp_path: Path) -> None:
    page = Page("how-to/mirror.md")
    key = place.lab.secret_key(f"{HOST}-1")
    (place.etc / "netrc").write_text("machine 127.0.0.1 login nix password unused\n")
    place.configure(sign=True, sign_key_paths=[str(key.secret_file)])
    words = {
        f'"{HOST}-1:…"': f'"{key.public}"',
        "/run/keys/netrc": str(place.etc / "netrc"),
        "/var/cache/mirror": str(tmp_path / "mirrored"),
        "/nix/store/…-nixos-system-…": place.lab.full(place.lab.closure.top),
    }
    place.shell.words |= words
    asked = settings_in(place, page.blocks("toml")[0])
    (inside,) = (one for one in asked["upstream"] if one["url"] == place.server.url)
    (tmp_path / "second").mkdir()
    nothing_of_its_own = {"daemon_socket": "/nowhere/socket", "nix_db_path": "/nowhere/db.sqlite", "workers": 1}
    settings = place.settings | nothing_of_its_own | asked | {"upstream": [inside], "sign": False, "sign_key_paths": []}
    settings["state_directory"] = str(tmp_path / "second" / "state")
    mirror = Server(tmp_path / "second", place.lab.env, settings)
    closure, channel, explain, verify = page.blocks("sh")[1].splitlines()
    configured = {"CONFIG_FILE": str(mirror.root / "harmonia.toml"), "STATE_DIRECTORY": settings["state_directory"]}
    place.shell.run(closure, **configured)
    store_paths = place.shell.directory / "store-paths.xz"
    store_paths.write_bytes(lzma.compress(place.lab.full(place.lab.closure.input0).encode()))
    place.shell.run(channel, **configured)
    assert "kept" in place.shell.run(explain, **configured).stdout
    assert "3 kept files, 0 rotten" in place.shell.run(verify, **configured).stdout
    place.server.stop()
    with mirror:
        hash_part = place.lab.closure.top.hash_part
        assert mirror.get(f"/{hash_part}.narinfo").headers["X-Harmonia-Source"] == "kept"
        client = place.lab.client("client")
        top, where = place.lab.full(place.lab.closure.top), ("--option", "substituters", mirror.url)
        client.run("nix-store", "--realise", top, *where, "--option", "trusted-public-keys", key.public)
        assert client.real(place.lab.closure.top).exists()


def test_a_cache_moves_to_another_machine(place: Place, tmp_path: Path) -> None:
    """Configuration, keys and the state directory are backed up, put back elsewhere, and clients notice nothing."""
    place.shell.run("harmonia-py cache create team --public")
    reload(place.server)
    key = place.shell.run("harmonia-py key create team").stdout.strip()
    token = place.shell.run("harmonia-py token create ci --cache team --allow read,push").stdout.strip()
    (place.shell.directory / "netrc").write_text(f"machine 127.0.0.1 login nix password {token}\n")
    nix = "nix --extra-experimental-features nix-command copy --netrc-file ./netrc"
    place.shell.run(f"{nix} --to '{CACHE}/team/push/1?compression=zstd' ./result")
    place.server.stop()
    kept = Path(place.settings["state_directory"])
    kept.rename(tmp_path / "backup")
    shutil.rmtree(place.server.root)
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "backup", tmp_path / "other" / "state")
    settings = place.settings | {"state_directory": str(tmp_path / "other" / "state")}
    with Server(tmp_path / "other", place.lab.env, settings) as place.server:
        client, _ = place.client("client")
        assert realise(place, client, "--option", "trusted-public-keys", key, path="/team") == 0
        # Who pushed remembers what it pushed: that is there, and tokens are as well.
        place.shell.words = place.words()
        again = place.shell.run(f"{nix} --to '{CACHE}/team/push/2?compression=zstd' ./result").stderr
        assert "copying 0 paths" in again


def test_it_is_watched(place: Place) -> None:
    page = Page("how-to/watch.md")
    shown = [words for words in page.commands("harmonia-py") if words[0] == "top"]
    assert shown
    assert place.server.get("/health").status == place.server.get("/ready").status == 200
    assert b"harmonia_" in place.server.get("/metrics").body
    local = place.shell.run("harmonia-py doctor --json", check=False)
    outside = place.shell.run(f"harmonia-py doctor --url {CACHE} --json", check=False)
    assert all(json.loads(done.stdout) for done in (local, outside))
