"""What a page of the documentation tells its readers to type, as they would copy it.

page = Page("tutorial/team-cache.md")
page.blocks("sh")                        # the text of each block of that language, in order
page.commands("harmonia-py")             # every command of that program, in blocks and in the text
shell = Shell(tmp_path, env, {"http://server:5000": server.url, "/nix/store/…": path})
shell.run(page.blocks("sh")[0])          # runs it with bash, with these words in the place of those
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
DOCS: Final = PROJECT / "docs"
TIME_LIMIT: Final = 120.0

_BLOCK: Final = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"`([^`\n]+)`")


class Page:
    def __init__(self, name: str) -> None:
        self.file = DOCS / name
        self.text = self.file.read_text()

    def blocks(self, language: str) -> list[str]:
        found = [match for match in _BLOCK.finditer(self.text) if match[2] == language]
        return [re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE) for match in found]

    def commands(self, program: str, *, blocks_only: bool = False) -> Iterator[list[str]]:
        """The words behind `program`; where the page goes on with a pipe or another command, up to there."""
        lines = [line for language in ("sh", "console") for block in self.blocks(language) for line in _lines(block)]
        inline = [] if blocks_only else _INLINE.findall(_BLOCK.sub("", self.text))
        for text in [*lines, *inline]:
            words = text.removeprefix("$ ").removeprefix("sudo ")
            if words == program or words.startswith(f"{program} "):
                yield _up_to_the_end(words)[1:]


def _lines(block: str) -> list[str]:
    """The lines of a block, with those that a backslash continues as one."""
    return block.replace("\\\n", " ").splitlines()


def _up_to_the_end(command: str) -> list[str]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            break
        words.append(word)
    return words


class Shell:
    """Runs what a page says in a directory, with `harmonia-py` and `sudo` as its reader has them."""

    def __init__(self, directory: Path, env: Mapping[str, str], words: Mapping[str, str]) -> None:
        self.directory = directory
        self.words = dict(words)
        programs = directory / "programs"
        programs.mkdir(parents=True)
        # What a test has of its own needs no rights, so that `sudo` has nothing to give.
        for name, command in {
            "harmonia-py": f'exec {shlex.quote(sys.executable)} -m harmonia_py.cli "$@"',
            "sudo": 'exec "$@"',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{command}\n")
            (programs / name).chmod(0o755)
        self.env = dict(env) | {"PATH": f"{programs}:{env['PATH']}", "PYTHONPATH": str(PROJECT)}

    def in_words(self, text: str) -> str:
        """`text` with the words that are meant here."""
        if not self.words:
            return text
        longest_first = sorted(self.words, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)), lambda found: self.words[found[0]], text)

    def run(self, text: str, *, check: bool = True, **env: str) -> "subprocess.CompletedProcess[str]":
        text = self.in_words(text)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.directory,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIME_LIMIT,
        )
        if check:
            assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done
