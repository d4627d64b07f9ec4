"""The manual page and the units say what the code does; that the pages are current, `make check` says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harmonia_py.config.settings import Config
from harmonia_py.config.tables import Zstd
from harmonia_py.metrics.families import FAMILIES
from harmonia_py.web.routes import routes

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


class TestComparedWithHarmonia:
    """What the page says there is, there is; and it leaves nothing out that Harmonia has."""

    def test_every_setting_is_one_and_none_of_harmonias_is_missing(self) -> None:
        named = {row[0] for row in table("Settings")}
        assert named <= {*Config.__struct_fields__, *(f"zstd.{key}" for key in Zstd.__struct_fields__)}
        assert named >= {
            *("bind", "workers", "max_connection_rate", "max_connections", "priority", "virtual_nix_store"),
            *("real_nix_store", "nix_db_path", "enable_compression", "zstd.level", "zstd.long_distance_matching"),
            *("zstd.window_log", "sign_key_paths", "sign_key_path", "tls_cert_path", "tls_key_path", "daemon_socket"),
        }

    def test_every_url_has_the_name_of_its_route_and_none_is_missing(self) -> None:
        assert {row[1] for row in table("URLs")} == {route.name for route in routes()}

    def test_every_metric_is_one_and_none_of_harmonias_is_missing(self) -> None:
        named = {row[0] for row in table("Figures")}
        assert named <= {family.name for family in FAMILIES}
        pool = {family.name for family in FAMILIES if family.name.startswith("harmonia_daemon_")}
        assert named >= {"harmonia_http_requests_total", "harmonia_http_request_duration_seconds"} | pool

    def test_every_variable_is_read(self) -> None:
        named = {row[0] for row in table("Environment")}
        written = "\n".join(file.read_text() for file in (PROJECT / "harmonia_py").rglob("*.py"))
        for name in named:
            # Directories are asked for by their kind.
            assert f'"{name}"' in written or f'"{name.removesuffix("_DIRECTORY")}"' in written, name
        assert named <= set(re.findall(r"[A-Z_]{5,}", (PROJECT / "docs/reference/command-line.md").read_text()))
        assert len(named) == 12

    def test_every_row_says_what_becomes_of_it(self) -> None:
        rows = [row for heading in ("URLs", "Settings", "Environment", "Figures") for row in table(heading)]
        for row in rows:
            assert re.match("same|better: |not here: |not in Harmonia: |differs: |its levels", row[-1]), row


def table(heading: str) -> list[list[str]]:
    """The rows of the table below `heading`, without its head and without marks of code in the first two cells."""
    text = (PROJECT / "docs/reference/harmonia.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert lines
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [
        [*(cell.strip("`") for cell in row[:2]), *row[2:]] if len(row) > 2 else [row[0].strip("`"), row[1]]
        for row in rows
    ]
