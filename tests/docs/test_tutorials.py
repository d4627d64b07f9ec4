"""The tutorials, typed from their pages: every command, by two machines that have a store each.

What the readers of a page type otherwise is in `words`: the name of the server, where the store is, what was built.
"""

import re
from pathlib import Path
from typing import Final

import pytest
from lab import Client, Lab
from pages import Page, Shell
from server import Server

from harmonia_py.nix.store_path import StorePath

pytestmark = pytest.mark.slow

# A Nix as it is installed, but that it builds as the user of the tests, and asks no cache of the internet.
NIX_CONF: Final = "sandbox = false\nbuild-users-group =\nsubstituters =\n"
BUILT: Final = "/nix/store/4p5…-hello-from-server"
TRUSTED: Final = re.compile("extra-trusted-public-keys = (.*)\n")


def words(lab: Lab, server: Server, **others: str) -> dict[str, str]:
    return others | {
        "http://server:5000": server.url,
        "machine server": "machine 127.0.0.1",
        "/nix/store": str(lab.store_dir),
    }


def machine(root: Path, env: dict[str, str], conf: str, words: dict[str, str]) -> Shell:
    """A machine with this in its nix.conf."""
    (root / "etc").mkdir(parents=True)
    shell = Shell(root, env | {"NIX_CONF_DIR": str(root / "etc")}, words)
    configure(shell, conf)
    return shell


def configure(shell: Shell, conf: str) -> None:
    (shell.directory / "etc" / "nix.conf").write_text(NIX_CONF + shell.in_words(conf))


def contents(client: Client, lab: Lab, full_path: str) -> str:
    return client.real(lab.store_dir.parse_path(full_path)).read_text()


def test_the_first_cache(daemon: Lab, tmp_path: Path) -> None:
    page = Page("tutorial/first-cache.md")
    needed, run, path, look, build, realise = page.blocks("sh")
    (expression,) = page.blocks("nix")
    (conf,) = page.blocks("ini")
    _banner, cache_info, copying = page.blocks("text")
    assert needed.startswith("sudo apt-get install ")
    assert run == "make run\n"  # an installation, and `serve`
    assert path.endswith('.venv/bin:$PATH"\n')
    with Server(tmp_path, daemon.env) as server:
        key = server.wait_for(TRUSTED)[1]
        here = machine(tmp_path / "here", daemon.env, "", words(daemon, server))
        assert here.run(look).stdout == here.in_words(cache_info)
        (here.directory / "hello.nix").write_text(expression)
        built = here.run(build).stdout.strip()

        client = daemon.client("client")
        written = TRUSTED.search(conf)
        assert written is not None
        there = machine(tmp_path / "there", client.env, conf, words(daemon, server, **{BUILT: built, written[1]: key}))
        assert there.in_words(copying.strip()) in there.run(realise).stderr
        assert contents(client, daemon, built) == "built on the server\n"

        # 5. See it refuse
        configure(there, conf.replace(written[0], ""))
        (here.directory / "hello.nix").write_text(expression.replace("built on", "changed on"))
        there.words[BUILT] = here.run(build).stdout.strip()
        refused = there.run(realise, check=False)
        quoted = re.search(r'Nix says that it is\s+"(.*?)"', page.text, re.DOTALL)
        assert quoted is not None
        assert " ".join(quoted[1].split()) in refused.stderr
        configure(there, conf)
        there.run(realise)
        assert contents(client, daemon, there.words[BUILT]) == "changed on the server\n"


def test_a_cache_for_a_team(daemon: Lab, tmp_path: Path) -> None:
    make, serve, push, substitute, *_ = Page("tutorial/team-cache.md").blocks("sh")
    assert serve == "harmonia-py serve\n"
    server = Server(tmp_path, daemon.env)
    state = {"STATE_DIRECTORY": str(tmp_path / "server" / "state")}
    top = daemon.full(daemon.closure.top)
    made = Shell(tmp_path / "made", daemon.env | state, {})
    made.run(make)
    files = {file.name: file.stat().st_mode & 0o777 for file in made.directory.iterdir() if file.is_file()}
    assert files == {"team.key": 0o600, "ci.token": 0o600, "laptop.token": 0o600}
    with server:
        path = {"/nix/store/…": top}
        builder = machine(tmp_path / "builder", daemon.env, "", words(daemon, server, **path))
        (builder.directory / "ci.token").write_text((made.directory / "ci.token").read_text())
        assert "3 pushed" in builder.run(push).stderr
        again = builder.run(push).stderr  # "the same command once more sends nothing"
        assert "0 pushed (0 bytes), 3 present" in again

        client = daemon.client("client")
        laptop = machine(tmp_path / "laptop", client.env, "", words(daemon, server, **path))
        (laptop.directory / "laptop.token").write_text((made.directory / "laptop.token").read_text())
        assert len(substitute.splitlines()) == 3
        laptop.run(substitute)
        check_substituted(client, daemon, daemon.closure.top)


def test_a_cache_for_a_team_with_nix_alone(daemon: Lab, tmp_path: Path) -> None:
    make, _serve, _push, _substitute, push, substitute = Page("tutorial/team-cache.md").blocks("sh")
    made = Shell(tmp_path / "made", daemon.env | {"STATE_DIRECTORY": str(tmp_path / "server" / "state")}, {})
    made.run(make)
    with Server(tmp_path, daemon.env) as server:
        path = {"/nix/store/…": daemon.full(daemon.closure.top)}
        builder = machine(tmp_path / "builder", daemon.env, "", words(daemon, server, **path))
        (builder.directory / "ci.token").write_text((made.directory / "ci.token").read_text())
        assert "copying 3 paths" in builder.run(push).stderr
        # "The same command once more, with `/push/2`, sends nothing but questions."
        assert "copying 0 paths" in builder.run(push.replace("/push/1", "/push/2")).stderr

        client = daemon.client("client")
        laptop = machine(tmp_path / "laptop", client.env, "", words(daemon, server, **path))
        for name in ("laptop.token", "team.key"):
            (laptop.directory / name).write_text((made.directory / name).read_text())
        laptop.run(substitute)
        check_substituted(client, daemon, daemon.closure.top)
        # Its token may only read.
        (builder.directory / "ci.token").write_text((made.directory / "laptop.token").read_text())
        refused = builder.run(push.replace("/push/1", "/push/3"), check=False)
        assert "403" in refused.stderr


def check_substituted(client: Client, lab: Lab, path: StorePath) -> None:
    assert client.run("nix-store", "--dump", str(client.real(path))).stdout == lab.dump(path)
