"""The shells themselves complete what the parser knows."""

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from harmonia_py import cli

COMPLETIONS: Final = Path(__file__).parent.parent / "completions"
TIME_LIMIT: Final = 60.0
VERBS: Final = {command.verb for command in cli.COMMANDS}
BASH: Final = """
source "$1"
shift
compopt() { :; }
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_harmonia_py
printf '%s\\n' "${COMPREPLY[@]}"
"""

Complete = Callable[..., set[str]]

needs_fish: Final = pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
needs_zsh: Final = pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")


def bash(directory: Path, *words: str) -> set[str]:
    command = ["bash", "-c", BASH, "bash", str(COMPLETIONS / "harmonia-py"), *words]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True, timeout=TIME_LIMIT)
    assert done.stderr == ""
    return set(done.stdout.split())


def fish(directory: Path, *words: str) -> set[str]:
    program = f"source {COMPLETIONS / 'harmonia-py.fish'}; complete -C '{' '.join(words)}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", program],
        cwd=directory,
        env=os.environ | {"HOME": str(directory), "PATH": f"{directory}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=TIME_LIMIT,
    )
    assert done.stderr == ""
    return {line.partition("\t")[0] for line in done.stdout.splitlines()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with one file, and the program itself: fish completes no program that is not there."""
    (tmp_path / "some.file").touch()
    program = tmp_path / "harmonia-py"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("complete", [bash, pytest.param(fish, marks=needs_fish)])
class TestCompletion:
    def test_verbs(self, complete: Complete, directory: Path) -> None:
        assert complete(directory, "harmonia-py", "") == VERBS
        assert complete(directory, "harmonia-py", "gen") == {verb for verb in VERBS if verb.startswith("gen")}

    def test_options(self, complete: Complete, directory: Path) -> None:
        assert complete(directory, "harmonia-py", "compress", "--cl") == {"--closure"}
        assert "--interval" in complete(directory, "harmonia-py", "top", "--once", "-")

    def test_values(self, complete: Complete, directory: Path) -> None:
        assert complete(directory, "harmonia-py", "serve", "--log-format", "") == {"text", "json"}
        assert "some.file" in complete(directory, "harmonia-py", "serve", "--config", "so")
        assert "some.file" in complete(directory, "harmonia-py", "verify", "-c", "so")
        assert "some.file" in complete(directory, "harmonia-py", "compress", "so")
        assert complete(directory, "harmonia-py", "serve", "--bind", "so") == set()


@needs_zsh
def test_zsh_completes_a_verb_and_an_option(tmp_path: Path) -> None:
    """zsh completes on a terminal alone: what one word can become is written out."""
    shutil.copy(COMPLETIONS / "_harmonia-py", tmp_path)
    (tmp_path / ".zshrc").write_text(
        f"PS1='> '; fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; echo re'a'dy\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-i"], os.environ | {"ZDOTDIR": str(tmp_path), "TERM": "dumb"})
    try:
        wait_for(terminal, "ready")
        for typed, shown in (("harmonia-py compr\t", "compress "), ("--cl\t", "--closure ")):
            os.write(terminal, typed.encode())
            wait_for(terminal, shown)
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def wait_for(terminal: int, text: str) -> None:
    deadline = time.monotonic() + TIME_LIMIT
    seen = ""
    while text not in seen:
        left = deadline - time.monotonic()
        assert left > 0, f"no {text!r} in {seen!r}"
        if select.select([terminal], [], [], left)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
