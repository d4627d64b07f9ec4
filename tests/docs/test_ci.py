"""`how-to/ci.md`: the steps of its files for CI, run one by one as a runner runs them, against a real server.

And the hook of `how-to/push.md`, which Nix itself runs after a build.
"""

import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from clients import PROJECT, Team, User
from lab import Lab
from pages import Page, Shell

from harmonia_py.client.push_queue import PushQueue

PAGE: Final = Page("how-to/ci.md")
CACHE: Final = "https://cache.example.org"
PROGRAM: Final = "https://files.example.org/harmonia-py"
# What there is on a runner; each file is the whole of what its kind of CI reads of a job.
KEYS_OF_GITHUB: Final = {"name", "uses", "with", "run", "if", "env"}
KEYS_OF_GITLAB: Final = {"image", "variables", "before_script", "script"}
_EXPRESSION: Final = """
    derivation {
      name = "built-by-ci";
      system = builtins.currentSystem;
      builder = "/bin/sh";
      args = [ "-c" "echo built > $out" ];
    }
"""


class Runner:
    """A machine that runs jobs: a checkout, a home, and Nix."""

    def __init__(self, root: Path, team: Team) -> None:
        root.mkdir()
        self.team = team
        token = team.token("runner", "read,push,pin")
        user = User(root / "home", team.lab, team.server.url, env={"NIX_REMOTE": "daemon", "HARMONIA_PY_TOKEN": token})
        self.bin = root / "bin"
        self.bin.mkdir()
        env = user.env | {"PATH": f"{self.bin}:{user.env['PATH']}"}
        self._shell = Shell(root / "checkout", env, {})
        program = self._shell.directory / "programs" / "harmonia-py"
        published = root / "files" / "harmonia-py"
        published.parent.mkdir()
        program.rename(published)  # the steps put it where it is found
        self._shell.words = {
            CACHE: team.server.url,
            PROGRAM: published.as_uri(),
            "/tmp/harmonia-py": str(root / "fetched"),  # of the page
            "/usr/local/bin": str(self.bin),
            "${{ secrets.CACHE_TOKEN }}": token,
        }
        (self._shell.directory / "default.nix").write_text(_EXPRESSION)

    def file(self, number: int) -> Any:
        """The file for CI, with what is meant here."""
        return yaml.safe_load(self._shell.in_words(PAGE.blocks("yaml")[number]))

    def run(self, commands: Iterable[str], variables: dict[str, str]) -> None:
        self._shell.run("\n".join(commands), check=True, **variables)

    def has_pushed(self, pin: str) -> bool:
        """Whether the result is served, and the pin leads to it."""
        result = self.team.lab.store_dir.parse_path(str((self._shell.directory / "result").readlink()))
        pins = self.team.machine.do("pin", "list", "team", "--json")
        return self.team.serves(result) and f'"{pin}"' in pins and result in pins


@pytest.fixture
def runner(tmp_path: Path, daemon: Lab) -> Iterator[Runner]:
    with Team(tmp_path, daemon) as team:
        yield Runner(tmp_path / "runner", team)


def test_the_steps_for_github_forgejo_and_gitea(runner: Runner) -> None:
    job = runner.file(0)["jobs"]["build"]
    assert set(job) == {"runs-on", "env", "steps"}
    steps: Sequence[dict[str, str]] = job["steps"]
    assert all(set(step) <= KEYS_OF_GITHUB and ("run" in step) != ("uses" in step) for step in steps)
    for step in steps:
        if "run" in step:
            runner.run([step["run"]], job["env"] | {"GITHUB_REF_NAME": "feature/x"})
    assert runner.has_pushed("feature-x")


def test_the_script_for_gitlab(runner: Runner) -> None:
    job = runner.file(1)["build"]
    assert set(job) == KEYS_OF_GITLAB
    install, *before = job["before_script"]
    assert shlex.split(install)[:2] == ["nix-env", "--install"], "there is no nixpkgs here"
    runner.run([*before, *job["script"]], job["variables"] | {"CI_COMMIT_REF_SLUG": "feature-x"})
    assert runner.has_pushed("feature-x")


def test_the_hook_that_nix_runs_after_a_build(tmp_path: Path, daemon: Lab) -> None:
    """Nix 2.8.0 names nothing in OUT_PATHS: nothing of what it built was pushed."""
    queue, hook, file = tmp_path / "queue", tmp_path / "push-what-was-built", tmp_path / "built.nix"
    (script,) = (block for block in Page("how-to/push.md").blocks("sh") if block.startswith("#!/bin/sh\n"))
    program = f"env PYTHONPATH={shlex.quote(str(PROJECT))} {shlex.quote(sys.executable)} -m harmonia_py.start hook"
    script = script.replace("harmonia-py hook", program).replace("/var/lib/harmonia-py-push", shlex.quote(str(queue)))
    hook.write_text(script)
    hook.chmod(0o755)
    file.write_text(_EXPRESSION)
    done = daemon.run("nix-build", str(file), "--no-out-link", "--option", "post-build-hook", str(hook))
    built = daemon.store_dir.parse_path(done.stdout.decode().strip())
    (entry,) = PushQueue(queue).entries(9)
    assert PushQueue(queue).read(entry, daemon.store_dir) == [built]
    with Team(tmp_path, daemon) as team:
        team.user("service", team.push).run("hook", "run", "team", "--drain", "--queue", str(queue))
        assert team.serves(built)
