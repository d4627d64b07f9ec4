"""ARCHITECTURE.md, the pages on the code, and orders of reading in packages: every module that they name is there."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

PROJECT: Final = Path(__file__).parent.parent.parent
PROGRAM: Final = PROJECT / "harmonia_py"
PAGES: Final = [PROJECT / page for page in ("ARCHITECTURE.md", "docs/code/ways.md", "docs/code/where-to-add.md")]
# Words, most of them in tables.
TWO_PAGES: Final = 1400
ORDER: Final = "In which order to read"


def modules_of(folder: Path) -> set[str]:
    found = {file.stem for file in folder.glob("*.py")} | {file.parent.name for file in folder.glob("*/__init__.py")}
    return found - {"__init__"}


def named(text: str) -> Iterable[str]:
    packages = modules_of(PROGRAM)
    return (name for name in re.findall(r"`([a-z0-9_]+/[a-z0-9_/]*)`", text) if name.partition("/")[0] in packages)


def test_the_architecture_has_two_pages() -> None:
    assert len((PROJECT / "ARCHITECTURE.md").read_text().split()) <= TWO_PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    names = set(named(page.read_text()))
    assert len(names) >= 10
    missing = [one for one in names if not ((PROGRAM / one).is_dir() or (PROGRAM / f"{one}.py").is_file())]
    assert missing == []


ORDERED: Final = [file.parent for file in sorted(PROGRAM.rglob("__init__.py")) if ORDER in file.read_text()]


@pytest.mark.parametrize("package", ORDERED, ids=lambda package: str(package.relative_to(PROGRAM)))
def test_the_order_of_reading_has_every_module_of_the_package(package: Path) -> None:
    order = (package / "__init__.py").read_text().partition(ORDER)[2]
    assert modules_of(package) - set(re.findall(r"\w+", order)) == set()
