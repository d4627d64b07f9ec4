"""`harmonia-py push` against the real server: what one machine pushes, another substitutes."""

import os
from pathlib import Path
from random import Random

import pytest
from clients import TIME_LIMIT, Team, parse
from lab import Lab
from pushing_proxy import PushingProxy
from terminal import on_a_terminal

from harmonia_py import cli
from harmonia_py.client.made_file import PART_BYTES
from harmonia_py.commands import use
from harmonia_py.nix.store_path import StorePath


def test_what_one_machine_pushes_another_substitutes(team: Team, daemon: Lab) -> None:
    closure = daemon.closure
    done = team.user("ci", team.push).push(closure.top)
    assert done.status == 0, done.stderr
    assert done.states() == dict.fromkeys((closure.top, closure.input2, closure.input0), "pushed")
    assert done.summary["pushed"] == 3
    client = daemon.client("other-machine")
    url = f"http://x:{team.read}@127.0.0.1:{team.server.port}/team"
    options = ["--option", "substituters", url, "--option", "require-sigs", "false"]
    client.nix_store("--realise", daemon.full(closure.top), *options)
    for path in (closure.top, closure.input2, closure.input0):
        assert client.run("nix-store", "--dump", str(client.real(path))).stdout == daemon.dump(path)


def test_what_is_there_is_not_sent_again(team: Team, daemon: Lab) -> None:
    user = team.user("ci", team.push)
    user.push(daemon.closure.input2)
    done = user.push(daemon.closure.top)
    states = done.states()
    assert states.pop(daemon.closure.top) == "pushed"
    assert set(states.values()) == {"present"}
    again = user.push(daemon.closure.top)
    assert (again.status, again.summary["present"], again.summary["sent_bytes"]) == (0, 3, 0)


def test_a_colleague_substitutes_after_two_commands(team: Team, daemon: Lab) -> None:
    """`login` and `use`: a nix.conf and a netrc with which stock Nix substitutes, and which come out again."""
    team.machine.do("key", "create", "team")
    top = daemon.closure.top
    team.user("ci", team.push).push(top)
    client = daemon.client("colleague")
    client.env["NIX_CONF_DIR"] = str(client.root / "etc")
    colleague = team.user("home", team.read, env={"NIX_CONF_DIR": client.env["NIX_CONF_DIR"]})
    client.env["HOME"] = str(colleague.home)
    # Root changes the files of the system, and any other user its own.
    conf = client.root / "etc" if os.geteuid() == 0 else colleague.home / ".config/nix"
    conf.mkdir(parents=True)
    before = "build-users-group =\nsubstituters =\n"
    (conf / "nix.conf").write_text(before)
    shown = colleague.run("use", "team").stderr
    assert f"  + extra-substituters = {team.server.url}/team\n" in shown
    assert team.read not in shown
    assert (conf / "netrc").stat().st_mode & 0o777 == 0o600
    client.nix_store("--realise", daemon.full(top))
    assert client.run("nix-store", "--dump", str(client.real(top))).stdout == daemon.dump(top)
    colleague.run("use", "team", "--remove")
    assert (conf / "nix.conf").read_text() == before
    assert not (conf / "netrc").exists()


def test_a_token_that_the_server_does_not_know_is_not_kept(team: Team) -> None:
    user = team.user("home", None)
    done = user.run("login", team.server.url, "hpy_nothing_at_all", check=False)
    assert done.returncode == 1
    assert "does not take this token" in done.stderr
    assert "not logged in anywhere" in user.run("push", "team", "/x", check=False).stderr
    user.run("login", team.server.url, team.push)
    file = user.home / ".config/harmonia-py/logins.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    user.run("logout")
    assert team.push not in file.read_text()


def test_a_token_is_asked_for_and_not_shown(team: Team) -> None:
    """On a terminal, and otherwise read from standard input: an argument is in the list of processes."""
    user = team.user("home", None)
    user.run("login", team.server.url, stdin=f"{team.push}\n")
    command, env = ("login", team.server.url), user.env | {"TERM": "xterm"}
    typed = (b"token (it is not shown): ", f"{team.read}\n".encode())
    seen = on_a_terminal(command, cwd=user.home, env=env, status=0, size=(24, 200), typed=typed)
    assert f"logged in to {team.server.url} as token laptop" in seen
    assert team.read not in seen


def test_what_nobody_is_logged_in_to_is_not_forgotten_and_not_undone(team: Team) -> None:
    user = team.user("home", None, env={"NIX_CONF_DIR": str(team.root / "conf")})
    assert "not logged in anywhere" in user.run("logout", check=False).stderr
    user.run("login", team.server.url, team.read)
    refused = user.run("logout", "http://other.example.org", check=False)
    assert (refused.returncode, refused.stderr.split(": ")[0]) == (1, "error")
    assert f"not logged in to http://other.example.org; only to {team.server.url}" in refused.stderr
    refused = user.run("use", f"127.0.0.1:{team.server.port}/team", "--remove", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"has nothing of {team.server.url}/team" in " ".join(refused.stderr.split())


@pytest.mark.skipif(os.geteuid() != 0, reason="on NixOS root alone is told what to configure")
def test_root_on_nixos_is_told_what_to_configure(
    team: Team, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There the configuration makes nix.conf, which nothing else may change."""
    public = team.machine.do("key", "create", "team").strip()
    directory = team.root / "conf"
    user = team.user("home", team.read)
    for name, value in (("HOME", str(user.home)), ("NIX_CONF_DIR", str(directory)), ("XDG_CONFIG_HOME", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(use, "_NIXOS", team.root)
    assert cli.main(["use", "team"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "# configuration.nix",
        f'nix.settings.extra-substituters = [ "{team.server.url}/team" ];',
        f'nix.settings.extra-trusted-public-keys = [ "{public}" ];',
    ]
    assert [file.name for file in directory.iterdir()] == ["netrc"]


def test_a_public_cache_takes_no_netrc_and_a_dry_run_writes_nothing(tmp_path: Path, daemon: Lab) -> None:
    with Team(tmp_path, daemon, {"caches": {"team": {"public": True}}}) as team:
        user = team.user("home", team.push, env={"NIX_CONF_DIR": str(tmp_path / "conf")})
        shown = user.run("use", "team", "--dry-run").stderr
        assert "netrc" not in shown
        assert not (tmp_path / "conf").exists()


def random_path(lab: Lab, root: Path, name: str, size: int) -> StorePath:
    """A path with a file of so many bytes that no compression makes smaller."""
    file = root / name
    file.write_bytes(os.urandom(size))
    path = lab.add(file)
    file.unlink()
    return path


def test_a_large_path_goes_in_parts(team: Team, daemon: Lab, tmp_path: Path) -> None:
    path = random_path(daemon, tmp_path, "large", 3 * PART_BYTES + 1)
    done = team.user("ci", team.push).push(path)
    assert (done.status, done.states()) == (0, {path: "pushed"}), done.stderr
    assert done.summary["sent_bytes"] >= 3 * PART_BYTES
    assert team.serves(path)
    assert list(team.directory("partial").iterdir()) == []


@pytest.mark.parametrize(("parts", "cuts"), [(8, 4), pytest.param(30, 20, marks=pytest.mark.slow)])
def test_a_push_whose_connections_are_cut_goes_on_where_it_was(
    team: Team, daemon: Lab, tmp_path: Path, parts: int, cuts: int
) -> None:
    """Cuts at random places cost a tenth of the bytes at the most: what was on its way."""
    size = parts * PART_BYTES
    path, random = random_path(daemon, tmp_path, "large", size), Random(7)
    with PushingProxy(team.server.port) as proxy:
        user = team.user("ci", team.push)
        process = user.start("push", f"{proxy.url}/team", daemon.full(path), "--json", HARMONIA_PY_TOKEN=team.push)
        for cut in sorted(random.randrange(100_000, size) for _ in range(cuts)):
            proxy.wait_for(cut - 50_000)
            proxy.cut_after = cut
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
        done = parse(process.wait(TIME_LIMIT), stdout, stderr)
        assert (done.status, done.states()) == (0, {path: "pushed"}), stderr
        assert proxy.cuts > cuts // 2, "two close to each other may be one"
        assert proxy.sent < 1.1 * size
    assert team.serves(path)


def test_a_client_that_was_killed_sends_only_the_rest(team: Team, daemon: Lab, tmp_path: Path) -> None:
    size = 6 * PART_BYTES
    path = random_path(daemon, tmp_path, "large", size)
    with PushingProxy(team.server.port) as proxy:
        user = team.user("ci", team.push)
        arguments = ("push", f"{proxy.url}/team", daemon.full(path), daemon.full(daemon.closure.top), "--json")
        for part in (1, 3, 5):
            process = user.start(*arguments, HARMONIA_PY_TOKEN=team.push)
            proxy.wait_for(part * PART_BYTES)
            process.kill()
            process.communicate(timeout=TIME_LIMIT)
            assert not team.serves(path), "nothing half is seen"
        process = user.start(*arguments, HARMONIA_PY_TOKEN=team.push)
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
        done = parse(process.wait(TIME_LIMIT), stdout, stderr)
        assert (done.status, done.summary["failed"]) == (0, 0), stderr
        assert proxy.sent < 1.1 * size
    assert team.serves(path)


def test_a_pin_leads_to_what_was_pushed_once_all_of_it_is_served(team: Team, daemon: Lab) -> None:
    user = team.user("ci", team.token("releaser", "read,push,pin"))
    top = daemon.closure.top
    done = user.push(top, options=("--pin", "release"))
    assert (done.status, done.summary["unpinned"]) == (0, None), done.stderr
    assert team.machine.do("pin", "list", "team", "--json").count(top) == 1
    again = user.push(top, options=("--pin", "nightly"))
    assert (again.status, again.summary["sent_bytes"]) == (0, 0), again.stderr
    assert "nightly" in team.machine.do("pin", "list", "team", "--json")


def test_a_token_that_may_not_pin_is_told_before_anything_is_sent(team: Team, daemon: Lab) -> None:
    done = team.user("ci", team.push).push(daemon.closure.top, options=("--pin", "release"))
    assert done.status == 1
    assert "read,push,pin" in done.summary["aborted"]
    assert not team.serves(daemon.closure.top)


def test_a_pin_is_for_one_path(team: Team, daemon: Lab) -> None:
    paths = (daemon.closure.top, daemon.closure.input1)
    done = team.user("ci", team.push).push(*paths, options=("--pin", "release"))
    assert done.status == 2
    assert "--pin is for one path" in done.stderr


def test_what_is_pushed_is_not_collected_meanwhile(team: Team, daemon: Lab, tmp_path: Path) -> None:
    """Nix's collector runs beside a push: what has no root but the push itself stays until it is sent."""
    path = random_path(daemon, tmp_path, "large", 6 * PART_BYTES)
    with PushingProxy(team.server.port) as proxy:
        proxy.hold_after = PART_BYTES
        user = team.user("ci", team.push)
        process = user.start("push", f"{proxy.url}/team", daemon.full(path), "--json", HARMONIA_PY_TOKEN=team.push)
        proxy.wait_for(PART_BYTES)
        daemon.nix_store("--gc")
        is_valid = daemon.is_valid(path)
        proxy.go_on()
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    done = parse(process.wait(TIME_LIMIT), stdout, stderr)
    assert (done.status, done.states()) == (0, {path: "pushed"}), stderr
    assert is_valid
    daemon.nix_store("--gc")
    assert not daemon.is_valid(path), "it is kept no longer than the push takes"


def test_many_roots_that_are_there_are_not_asked_for_one_by_one(team: Team, daemon: Lab, tmp_path: Path) -> None:
    """Two questions for each of 10,000 paths took forty seconds; a file that is lost is found all the same."""
    files = [tmp_path / f"n{number}" for number in range(60)]
    for file in files:
        file.write_text(file.name)
    added = daemon.nix_store("--add", *map(str, files)).split()
    paths = [daemon.store_dir.parse_path(path) for path in added]
    user = team.user("ci", team.push)
    assert user.push(*paths).status == 0
    with PushingProxy(team.server.port) as proxy:
        arguments = ("push", f"{proxy.url}/team", *map(daemon.full, paths), "--json")
        assert user.run(*arguments, HARMONIA_PY_TOKEN=team.push).returncode == 0
        assert proxy.sent < len(paths) * 2 * 200, "a question has 200 bytes and more"
    lost = next(iter(sorted(team.directory("nar").iterdir())))
    lost.unlink()
    done = user.push(*paths)
    assert (done.status, done.summary["pushed"], done.summary["present"]) == (0, 1, len(paths) - 1)


@pytest.mark.parametrize("columns", [40, pytest.param(120, marks=pytest.mark.slow)])
def test_a_terminal_shows_a_bar_that_goes_and_lines_that_fit(
    team: Team, daemon: Lab, tmp_path: Path, columns: int
) -> None:
    path = random_path(daemon, tmp_path, "large", 3 * PART_BYTES)
    user = team.user("ci", team.push)
    command = ("push", "team", daemon.full(path))
    seen = on_a_terminal(command, cwd=user.home, env=user.env | {"TERM": "xterm"}, status=0, size=(24, columns))
    assert "pushing 1 path" in seen
    last = seen.rstrip().splitlines()[-1]
    assert last.endswith(f"{team.server.url}/team: 1 pushed (6.3 MB), 0 present")
    alone = user.run("push", "team", daemon.full(path))
    assert alone.stderr == f"{team.server.url}/team: 0 pushed (0 bytes), 1 present\n"
    assert alone.stdout == ""
