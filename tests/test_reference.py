"""The manual page and the units say what the code does; that the pages are current, `make check` says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs/reference/harmonia-py.1"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_manual_page_is_one() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-rHY=0", "-rLL=100n", str(PAGE)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr == ""
    # Bold is written as one character over the other.
    text = re.sub("\x1b\\[[0-9;]*m|.\x08", "", done.stdout)
    assert re.search(r"^NAME\n\s+harmonia-py - a Nix binary cache", text, re.MULTILINE)
    assert "--config FILE" in text
    assert "SIGN_KEY_PATHS" in text


def test_every_page_is_in_the_navigation() -> None:
    navigation = (PROJECT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    pages = {file.relative_to(PROJECT / "docs").as_posix() for file in (PROJECT / "docs").rglob("*.md")}
    listed = set(re.findall(r"[\w./-]+\.md", navigation))
    assert {page for page in pages ^ listed if not page.startswith("decisions/")} == set()
