"""Everything that a page tells its readers to type or to write exists: verbs, options, targets of make, settings."""

import re
from pathlib import Path
from typing import Final

import pytest
from pages import DOCS, PROJECT, Page

from harmonia_py import cli
from harmonia_py.config.file import load

# These are written from the code: tests/test_reference.py.
GENERATED: Final = {"reference/command-line.md", "reference/settings.md", "reference/metrics.md"}
OUTSIDE: Final = ["README.md", "CONTRIBUTING.md", "systemd/README.md", "container/README.md", "nixos/README.md"]
PAGES: Final = [
    *sorted({str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - GENERATED),
    *(f"../{name}" for name in OUTSIDE),
]
# What stands for the rest of a key, a path or a token.
DOTS: Final = "…"
PUBLIC_KEY: Final = "A" * 43 + "="

parser = cli.make_parser()


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_one_that_the_program_knows(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in Page(name).commands("harmonia-py"):
        # In a sentence `harmonia-py key` stands for all that it does, with nothing behind it.
        arguments = words if len(words) > 2 else [*words, "--help"]
        try:
            parser.parse_args(arguments)
        except SystemExit as ended:
            assert ended.code == 0, f"harmonia-py {' '.join(words)}\n{capsys.readouterr().err}"  # noqa: PT017  # not raised by most


@pytest.mark.parametrize("name", PAGES)
def test_every_target_of_make_is_there(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for words in Page(name).commands("make"):
        assert {word for word in words if re.fullmatch("[a-z-]+", word)} <= targets


@pytest.mark.parametrize("name", PAGES)
def test_every_configuration_is_taken(name: str, tmp_path: Path) -> None:
    for block in Page(name).blocks("toml"):
        file = tmp_path / "harmonia.toml"
        file.write_text(block.replace(DOTS, PUBLIC_KEY))
        load(file, {}, {})


def test_the_pages_are_found_and_have_commands() -> None:
    """Else the others would say nothing of pages that are written otherwise."""
    assert sum(len(list(Page(name).commands("harmonia-py"))) for name in PAGES) > 60
    assert sum(len(Page(name).blocks("toml")) for name in PAGES) > 5


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_nix_is_one_of_a_stock_nix(name: str) -> None:
    """`nix copy …` ends with "experimental Nix feature 'nix-command' is disabled"."""
    for words in Page(name).commands("nix", blocks_only=True):
        assert words[:2] == ["--extra-experimental-features", "nix-command"], words
