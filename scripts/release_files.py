"""Complete dist/ for a release: what the one file cannot install, what has changed, and the checksums of it all.

* `harmonia-py-files.tar.gz`: the manual page, completions, units for systemd, an example configuration, the licence;
* `RELEASE-NOTES.md`: what CHANGELOG.md says of the version, or of what is not released yet;
* `SHA256SUMS`: for `sha256sum --check`.

The bytes are the same for one commit, wherever this runs.
"""

import gzip
import hashlib
import io
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from make_single_file import source_date
from release_check import section, version

PROJECT: Final = Path(__file__).parent.parent
ARCHIVE: Final = "harmonia-py-files.tar.gz"
NOTES: Final = "RELEASE-NOTES.md"
SUMS: Final = "SHA256SUMS"

# Where each file goes, below the prefix or beside the guide that installs it.
_FILES: Final = {
    "docs/reference/harmonia-py.1": "share/man/man1/harmonia-py.1",
    "completions/harmonia-py": "share/bash-completion/completions/harmonia-py",
    "completions/_harmonia-py": "share/zsh/site-functions/_harmonia-py",
    "completions/harmonia-py.fish": "share/fish/vendor_completions.d/harmonia-py.fish",
    "harmonia.toml.example": "harmonia.toml.example",
    "LICENSE": "LICENSE",
}


def archive(project: Path) -> bytes:
    """Return the archive, in a folder named after the version."""
    when = source_date()
    files = _FILES | {f"systemd/{file.name}": f"systemd/{file.name}" for file in (project / "systemd").iterdir()}
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=when) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for source, target in sorted(files.items(), key=lambda pair: pair[1]):
            data = (project / source).read_bytes()
            entry = tarfile.TarInfo(f"harmonia-py-{version(project)}/{target}")
            entry.size, entry.mtime, entry.mode = len(data), when, 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def notes(project: Path) -> str:
    """Return what the changelog says of this version; of one that has no heading, what is unreleased.

    Raises:
        SystemExit: it says nothing of either.
    """
    wanted = version(project)
    for heading in (rf"{re.escape(wanted)} \([0-9-]+\)", "Unreleased"):
        found = section(project, heading)
        if found is not None and found[2].strip():
            title = found[1] if found[1] != "Unreleased" else f"{wanted}, not released"
            return f"# harmonia-py {title}\n\n{found[2].strip()}\n"
    raise SystemExit(f"CHANGELOG.md: says nothing of {wanted}")


def sums(folder: Path) -> Iterator[str]:
    """Yield a line for each file in `folder`, as sha256sum writes it."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != SUMS:
            yield f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"


def complete(project: Path, folder: Path) -> None:
    """Write the three files."""
    (folder / ARCHIVE).write_bytes(archive(project))
    (folder / NOTES).write_text(notes(project))
    (folder / SUMS).write_text("".join(sums(folder)))


if __name__ == "__main__":
    complete(PROJECT, PROJECT / "dist")
    sys.stdout.write((PROJECT / "dist" / SUMS).read_text())
