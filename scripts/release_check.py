"""Check that this commit can be released, and say everything that stands in the way.

The version is in harmonia_py/__init__.py and nowhere else. The changelog has a heading for it, a tag names this commit,
nothing is uncommitted, lock files and reference are current, and two builds of the wheel are the same bytes.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parent.parent
BUILD_LIMIT: Final = 300
_BUILD: Final = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def version(project: Path) -> str:
    """Return the version."""
    found = re.search(r'^__version__ = "(.+)"$', (project / "harmonia_py/__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit("harmonia_py/__init__.py: says no version")
    return found[1]


def section(project: Path, heading: str) -> re.Match[str] | None:
    """Return what CHANGELOG.md has below a heading, which is a pattern: the heading, and the text."""
    text = (project / "CHANGELOG.md").read_text()
    return re.search(rf"^## ({heading})\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)


def problems_of_text(project: Path) -> Iterator[str]:
    """What is wrong with the changelog and other places that could have a version."""
    wanted = version(project)
    found = section(project, rf"{re.escape(wanted)} \(\d{{4}}-\d\d-\d\d\)")
    if found is None:
        yield f"CHANGELOG.md: has no heading `## {wanted} (YYYY-MM-DD)`"
    elif not found[2].strip():
        yield f"CHANGELOG.md: says nothing about {wanted}"
    unreleased = section(project, "Unreleased")
    if unreleased is not None and unreleased[2].strip():
        yield "CHANGELOG.md: something is still under `## Unreleased`"
    if "version" in tomllib.loads((project / "pyproject.toml").read_text())["project"]:
        yield "pyproject.toml: has a version of its own"


def problems_of_git(project: Path) -> Iterator[str]:
    """What is wrong with the commit."""
    tag = f"v{version(project)}"
    if tag not in _git(project, "tag", "--points-at", "HEAD").split():
        yield f"git: no tag {tag} names this commit"
    if _git(project, "status", "--porcelain"):
        yield "git: something is not committed"


def _git(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(project), *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def problems_of_files(project: Path) -> Iterator[str]:
    """Which files that are made from others are not current."""
    for script in ("lock.py", "generate_reference.py"):
        done = subprocess.run(
            [sys.executable, project / "scripts" / script, "--check"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            yield done.stderr.strip()


def problems_of_the_wheel(project: Path) -> Iterator[str]:
    """Whether two builds, each of a fresh copy of what is committed, differ."""
    commit = _git(project, "rev-parse", "HEAD").strip()
    with tempfile.TemporaryDirectory() as folder:
        first, second = (build_wheel(project, commit, Path(folder, name)) for name in ("first", "second-elsewhere"))
        if first.name != second.name or first.read_bytes() != second.read_bytes():
            yield f"{first.name}: two builds differ"
        if f"-{version(project)}-" not in first.name:
            yield f"{first.name}: has another version than {version(project)}"


def build_wheel(project: Path, commit: str, folder: Path) -> Path:
    """Build the wheel of `commit`, in `folder`."""
    source = folder / "source"
    source.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", str(project), "archive", commit], capture_output=True, check=True, timeout=60
    ).stdout
    subprocess.run(["tar", "--extract", "--directory", str(source)], input=archive, check=True, timeout=60)
    # The same second, whenever it is built.
    env = os.environ | {"SOURCE_DATE_EPOCH": _git(project, "log", "-1", "--format=%ct", commit).strip()}
    command = [sys.executable, "-c", _BUILD, str(folder)]
    subprocess.run(command, cwd=source, env=env, stdout=subprocess.DEVNULL, check=True, timeout=BUILD_LIMIT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def main() -> int:
    """Print what stands in the way; the exit status says whether anything does."""
    checks = (problems_of_text, problems_of_git, problems_of_files, problems_of_the_wheel)
    found = [problem for check in checks for problem in check(PROJECT)]
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"{version(PROJECT)} can be released")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
