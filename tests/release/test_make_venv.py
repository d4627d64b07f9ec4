"""What the set-up prints on a machine that lacks something which the installation needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.slow

PROJECT: Final = Path(__file__).parent.parent.parent
TIME_LIMIT: Final = 120.0
# What the script calls; a compiler and apt-get are not among them.
PROGRAMS: Final = ("bash", "dirname", "env", "flock", "mkdir")


def test_a_missing_compiler_is_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    """Thirty lines of pip's and the compiler's complaints came before it."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "programs").mkdir()
    for script in ("make-venv", "apt-install"):
        shutil.copy(PROJECT / "scripts" / script, tmp_path / "scripts")
    for program in PROGRAMS:
        found = shutil.which(program)
        assert found is not None
        (tmp_path / "programs" / program).symlink_to(found)
    done = subprocess.run(
        [tmp_path / "scripts/make-venv", "requirements.lock"],
        env=os.environ | {"PATH": str(tmp_path / "programs"), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 2, done.stderr  # which Python it took, and this
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
    assert f"sudo apt-get install gcc libc6-dev {version}" in done.stderr
