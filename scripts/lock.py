"""Make the lock files from pyproject.toml, or check without a network that they are current.

usage: lock.py [--check | --upgrade]

Each lock file begins with a digest of the part of pyproject.toml that it was made from. Without `--upgrade` versions
stay as they are where they can.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parent.parent
LABEL: Final = "# Made by `make lock` from the dependencies in pyproject.toml with the digest "

# A lock file and the dependency groups in it, beside the run-time dependencies. The second is constrained by the first.
LOCKS: Final = {"requirements.lock": ["build"], "requirements-dev.lock": ["build", "dev"]}


def digest(groups: list[str]) -> str:
    """Return a digest of what a lock file with these groups depends on."""
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    project = pyproject["project"]
    relevant = [
        project["requires-python"],
        sorted(project["dependencies"]),
        [sorted(pyproject["dependency-groups"][group]) for group in groups],
    ]
    return hashlib.sha256(json.dumps(relevant).encode()).hexdigest()[:32]


def check() -> int:
    """Return 0 when every lock file was made from today's pyproject.toml."""
    stale = [
        name
        for name, groups in LOCKS.items()
        if (PROJECT / name).read_text().partition("\n")[0] != LABEL + digest(groups)
    ]
    if stale:
        print(f"{' and '.join(stale)}: not made from today's pyproject.toml; run `make lock`", file=sys.stderr)
    return 1 if stale else 0


def lock(options: list[str]) -> int:
    """Write the lock files: every version that fits, for every platform and Python, with its hashes."""
    uv = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
    if uv is None:
        print("`make lock` needs uv: .venv/bin/pip install uv", file=sys.stderr)
        return 1
    constraints: list[str] = []
    for name, groups in LOCKS.items():
        command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
        command += ["pyproject.toml", *(f"--group={group}" for group in groups), *constraints, *options, "-o", name]
        subprocess.run(command, cwd=PROJECT, stdout=subprocess.DEVNULL, timeout=600, check=True)
        file = PROJECT / name
        file.write_text(f"{LABEL}{digest(groups)}\n{file.read_text()}")
        constraints = ["--constraint", name]
    return 0


def main() -> int:
    """Do what the command line says."""
    match sys.argv[1:]:
        case ["--check"]:
            return check()
        case [] | ["--upgrade"] as options:
            return lock(options)
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
