"""Make dist/harmonia-py: one executable file with everything but the Python interpreter.

usage: make_single_file.py [--python VERSION]…        default: 3.11 3.12 3.13 3.14

The wheels that requirements-extras.lock names are fetched for each version of Python, checked against their hashes, and
packed with this project; docs/decisions/0007-one-file.md says why so. They stay in .cache/wheels. It runs on this
machine's kind of processor, on Linux with glibc.
"""

import hashlib
import io
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pip._vendor.packaging.markers import Marker

PROJECT: Final = Path(__file__).parent.parent
SCRIPTS: Final = Path(__file__).parent
WHEELS: Final = PROJECT / ".cache" / "wheels"
OUTPUT: Final = PROJECT / "dist" / "harmonia-py"
VERSIONS: Final = ("3.11", "3.12", "3.13", "3.14")
# https://peps.python.org/pep-0600/: glibc 2.28 and later, which is Debian 10 and RHEL 8.
PLATFORMS: Final = tuple(
    f"manylinux{glibc}_{platform.machine()}" for glibc in ("_2_28", "_2_17", "2014", "_2_12", "_2_5")
)
# It has no wheels; on Linux, which is all there is here, the standard library does what it is used for.
REPLACED: Final = {"pyxattr": SCRIPTS / "single_file" / "xattr.py"}
# Packages whose wheels come without their licence, which has to go with every copy.
LICENCES: Final = {"obstore": SCRIPTS / "single_file" / "licences" / "obstore"}
# What nobody reads at run time.
_LEFT_OUT: Final = re.compile(r"\.(?:pyi|pyx|pxd|pxi|c|h|cpp|hash)$|(?:^|/)(?:tests?|__pycache__)/|\.dist-info/RECORD$")
_NATIVE: Final = re.compile(r"\.so(?:\.|$)")
# NAME==VERSION ; MARKER \ and the lines with its hashes.
_LOCKED: Final = re.compile(r"^([\w.-]+)==[^\s;]+(?: ; ([^\\\n]+?))? \\\n(?:    --hash=\S+(?: \\)?\n?)+", re.MULTILINE)
FETCH_LIMIT: Final = 600


def source_date() -> int:
    """Return when the file was made, as far as it says so: $SOURCE_DATE_EPOCH, or the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    command = ["git", "-C", str(PROJECT), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return int(done.stdout or 0) or 315_532_800  # the first second that a zip file can say


def requirements(version: str) -> str:
    """Return what the lock file says for that Python, without what is replaced."""
    text = (PROJECT / "requirements-extras.lock").read_text()
    kept = []
    for found in _LOCKED.finditer(text):
        name, marker = found[1], found[2]
        environment = {"python_full_version": f"{version}.0", "python_version": version, "sys_platform": "linux"}
        if name not in REPLACED and (marker is None or Marker(marker).evaluate(environment)):
            without_marker = found[0] if marker is None else found[0].replace(f" ; {marker}", "", 1)
            kept.append(without_marker if without_marker.endswith("\n") else without_marker + "\n")
    return "".join(kept)


def fetch(version: str) -> Path:
    """Return the folder with the wheels for that Python; they are fetched when they are not there."""
    wanted = requirements(version)
    digest = hashlib.sha256(f"{wanted}{PLATFORMS}".encode()).hexdigest()[:16]
    folder = WHEELS / f"{version}-{digest}"
    if folder.is_dir():
        return folder
    print(f"fetching wheels for Python {version}", file=sys.stderr)
    WHEELS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WHEELS) as partial:
        lock = Path(partial) / "requirements.txt"
        lock.write_text(wanted)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", f"--python-version={version}", "--implementation=cp"]
        command += [f"--platform={one}" for one in PLATFORMS]
        command += ["--dest", f"{partial}/wheels", "--requirement", str(lock)]
        subprocess.run(command, check=True, timeout=FETCH_LIMIT)
        Path(partial, "wheels").rename(folder)
    return folder


def contents(versions: Iterable[str]) -> dict[str, bytes]:
    """Return every file by its name: `all/` is for every Python, `3.11/` for that one."""
    files: dict[str, bytes] = {}
    for version in versions:
        for wheel in sorted(fetch(version).glob("*.whl")):
            # A wheel with native code for any Python from some version on is the same file for each of them.
            own = "-none-any" in wheel.name or "-abi3-" in wheel.name
            files |= dict(_unpacked(wheel, "all" if own else version))
    for package, licence in LICENCES.items():
        for name in [name for name in files if re.search(rf"/{package}-[^/]+\.dist-info/METADATA$", name)]:
            files[f"{name.rpartition('/')[0]}/licenses/LICENSE"] = licence.read_bytes()
    for replacement in REPLACED.values():
        files[f"all/{replacement.name}"] = replacement.read_bytes()
    for file in sorted((PROJECT / "harmonia_py").rglob("*")):
        name = f"all/{file.relative_to(PROJECT)}"
        if file.is_file() and not _LEFT_OUT.search(name):
            files[name] = file.read_bytes()
    return files


def _unpacked(wheel: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            # The scripts of other people's packages are nobody's business here.
            if not name.endswith("/") and not _LEFT_OUT.search(name) and ".data/" not in name:
                yield f"{folder}/{name}", archive.read(name)


def pack(files: dict[str, bytes]) -> bytes:
    """Return the whole executable file: the line for the kernel, and an archive that holds an archive.

    Python reads the directory of the outer one at every start, so that has three entries; the inner one has the files.
    """
    when = source_date()
    inner = _archive(files, when, zipfile.ZIP_DEFLATED)
    digest = hashlib.sha256(inner).hexdigest()[:32]
    first = (SCRIPTS / "single_file" / "__main__.py").read_bytes()
    start = (SCRIPTS / "single_file" / "start.py").read_text().replace("@DIGEST@", digest)
    files = {"__main__.py": first, "start.py": start.encode(), "files.zip": inner}
    outer = _archive(files, when, zipfile.ZIP_STORED)
    return b"#!/usr/bin/env python3\n" + outer


def _archive(files: dict[str, bytes], when: int, compression: int) -> bytes:
    buffer = io.BytesIO()
    date = datetime.fromtimestamp(when, UTC).timetuple()[:6]
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date)
            entry.compress_type = compression
            entry.create_system = 3  # Unix, whatever this is made on
            entry.external_attr = (stat.S_IFREG | (0o755 if _NATIVE.search(name) else 0o644)) << 16
            archive.writestr(entry, files[name], compresslevel=9 if compression == zipfile.ZIP_DEFLATED else None)
    return buffer.getvalue()


def main() -> int:
    """Make the file."""
    arguments = sys.argv[1:]
    if arguments[::2] != ["--python"] * (len(arguments) // 2) or len(arguments) % 2:
        print(__doc__, file=sys.stderr)
        return 2
    data = pack(contents(arguments[1::2] or VERSIONS))
    OUTPUT.parent.mkdir(exist_ok=True)
    partial = OUTPUT.with_name(".harmonia-py.partial")
    partial.write_bytes(data)
    partial.chmod(0o755)
    shutil.move(partial, OUTPUT)
    print(f"{OUTPUT.relative_to(PROJECT)}: {len(data) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
