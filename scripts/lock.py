"""Make the lock files from pyproject.toml, or check without a network that they are current.

usage: lock.py [--check | --upgrade]

Each lock file begins with a digest of the dependencies in pyproject.toml that it was made from. Without `--upgrade`
versions stay as they are where they can.
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

# What goes into each lock file. Every one is constrained by the ones before it, so that they agree.
LOCKS: Final = {
    "requirements-build.lock": ["--group=build"],
    "requirements.lock": ["pyproject.toml"],
    "requirements-extras.lock": ["pyproject.toml", "--all-extras"],
    "requirements-dev.lock": ["pyproject.toml", "--all-extras", "--group=dev"],
    "requirements-docs.lock": ["--group=docs"],
    "requirements-audit.lock": ["--group=audit"],
}


def digest() -> str:
    """Return a digest of what the lock files depend on."""
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    project = pyproject["project"]
    relevant = [
        project["requires-python"],
        project["dependencies"],
        project["optional-dependencies"],
        pyproject["dependency-groups"],
    ]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:32]


def check() -> int:
    """Return 0 when every lock file was made from today's pyproject.toml."""
    header = LABEL + digest()
    stale = [name for name in LOCKS if (PROJECT / name).read_text().partition("\n")[0] != header]
    if stale:
        print(f"{' and '.join(stale)}: not made from today's pyproject.toml; run `make lock`", file=sys.stderr)
    return 1 if stale else 0


def lock(options: list[str]) -> int:
    """Write the lock files: for every platform and Python one version that fits, with its hashes."""
    uv = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
    if uv is None:
        print("`make lock` needs uv: .venv/bin/pip install uv", file=sys.stderr)
        return 1
    constraints: list[str] = []
    for name, sources in LOCKS.items():
        command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
        command += ["--output-file", name, *sources, *constraints, *options]
        subprocess.run(command, cwd=PROJECT, stdout=subprocess.DEVNULL, timeout=600, check=True)
        file = PROJECT / name
        file.write_text(f"{LABEL}{digest()}\n{file.read_text()}")
        constraints += ["--constraint", name]
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
