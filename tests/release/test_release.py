"""What a release needs is checked, and what describes it is the same every time."""

import json
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import release_check
import release_files
import sbom

PROJECT = Path(__file__).parent.parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """As little as a release consists of."""
    (tmp_path / "harmonia_py").mkdir()
    (tmp_path / "harmonia_py/__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndynamic = ["version"]\n[tool.setuptools.dynamic]\nversion = {}\n'
    )
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.0 (2026-01-31)\n\n* New.\n\n## 1.1.0 (2026-01-01)\n")
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "--quiet", "--message=Release")
    _git(tmp_path, "tag", "v1.2.0")
    return tmp_path


def _git(project: Path, *arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(project), *who, *arguments], check=True, capture_output=True, timeout=60)


def problems(project: Path) -> list[str]:
    return [*release_check.problems_of_text(project), *release_check.problems_of_git(project)]


def test_what_is_ready_has_no_problems(project: Path) -> None:
    assert problems(project) == []


def test_a_version_that_the_changelog_does_not_know_is_none(project: Path) -> None:
    (project / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n* New.\n")
    first, second, third = problems(project)
    assert "no heading `## 1.2.0" in first
    assert "Unreleased" in second
    assert "not committed" in third


def test_the_tag_names_this_commit_and_no_other(project: Path) -> None:
    _git(project, "commit", "--quiet", "--allow-empty", "--message=More")
    assert problems(project) == ["git: no tag v1.2.0 names this commit"]


def test_the_version_is_in_one_place(project: Path) -> None:
    (project / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    assert "pyproject.toml: has a version of its own" in problems(project)


@pytest.mark.slow
def test_two_builds_of_the_wheel_are_the_same_bytes() -> None:
    assert list(release_check.problems_of_the_wheel(PROJECT)) == []


def test_the_notes_of_a_release_are_what_the_changelog_says_of_it(project: Path) -> None:
    assert release_files.notes(project).startswith("# harmonia-py 1.2.0 (")
    (project / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n* New.\n\n## 1.1.0 (2026-01-01)\n\n* Old.\n")
    assert release_files.notes(project) == "# harmonia-py 1.2.0, not released\n\n* New.\n"
    (project / "CHANGELOG.md").write_text("# Changelog\n")
    with pytest.raises(SystemExit):
        release_files.notes(project)


def test_what_can_be_downloaded_is_complete_and_can_be_checked(tmp_path: Path) -> None:
    (tmp_path / "harmonia-py").write_bytes(b"the one file")
    release_files.complete(PROJECT, tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", release_files.SUMS], cwd=tmp_path, check=True, timeout=60)
    listed = (tmp_path / release_files.SUMS).read_text()
    named = {line.split()[1] for line in listed.splitlines()}
    assert named == {"harmonia-py", release_files.ARCHIVE, release_files.NOTES}
    with tarfile.open(tmp_path / release_files.ARCHIVE) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
        assert names >= {"share/man/man1/harmonia-py.1", "systemd/harmonia-py.service", "harmonia.toml.example"}
        assert names >= {f"systemd/{file.name}" for file in (PROJECT / "systemd").iterdir()}
    before = (tmp_path / release_files.ARCHIVE).read_bytes()
    assert release_files.archive(PROJECT) == before, "the same bytes every time"


@pytest.mark.slow
def test_the_wheel_brings_the_manual_page_and_the_completions(tmp_path: Path) -> None:
    commit = subprocess.run(["git", "-C", PROJECT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    wheel = release_check.build_wheel(PROJECT, commit.stdout.strip(), tmp_path)
    names = {name.partition(".data/data/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    assert names >= {
        "share/man/man1/harmonia-py.1",
        "share/bash-completion/completions/harmonia-py",
        "share/zsh/site-functions/_harmonia-py",
        "share/fish/vendor_completions.d/harmonia-py.fish",
    }


def test_the_bill_of_materials_names_all_that_is_locked_and_is_the_same_every_time() -> None:
    lock = (PROJECT / "requirements-extras.lock").read_text()
    bill = sbom.bill(lock)
    assert json.dumps(sbom.bill(lock)) == json.dumps(bill)
    locked = set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))
    assert {one["name"] for one in bill["components"]} == locked
    assert all(one["hashes"] for one in bill["components"])
    aiohttp = next(one for one in bill["components"] if one["name"] == "aiohttp")
    assert aiohttp["purl"].startswith("pkg:pypi/aiohttp@")
    assert "Apache-2.0" in json.dumps(aiohttp["licenses"])
