"""Debian packages as the content of store paths: real files with real dependencies, the same on every machine."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks import BenchmarkError

DOWNLOAD_TIMEOUT_SECONDS = 1800
_FIELDS = ("Package", "Version", "Pre-Depends", "Depends", "Provides")
_RELATION = re.compile(r"[a-z0-9][a-z0-9+.-]*")


@dataclass(frozen=True, slots=True)
class Package:
    """A downloaded package.

    Attributes:
        file: the `.deb`.
        name: as in its control file.
        version: as in its control file.
        dependencies: alternatives in order of preference, one tuple for each dependency.
        provides: virtual packages that it stands for.
    """

    file: Path
    name: str
    version: str
    dependencies: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the control fields of `file`."""
        form = "\t".join(f"${{{field}}}" for field in _FIELDS)
        output = subprocess.run(
            ["dpkg-deb", "-W", f"--showformat={form}", file], check=True, capture_output=True, text=True, timeout=60
        ).stdout
        name, version, pre_depends, depends, provides = output.split("\t")
        groups = [group for field in (pre_depends, depends) for group in field.split(",") if group.strip()]
        return cls(
            file=file,
            name=name,
            version=version,
            dependencies=tuple(tuple(_relations(group.split("|"))) for group in groups),
            provides=tuple(_relations(provides.split(","))),
        )

    def unpack(self, directory: Path) -> None:
        """Unpack the files, without any script being run."""
        subprocess.run(["dpkg-deb", "-x", self.file, directory], check=True, timeout=600)


def _relations(texts: Iterable[str]) -> list[str]:
    matches = (_RELATION.match(text.strip()) for text in texts)
    return [match[0] for match in matches if match is not None]


def download(names: Sequence[str], directory: Path) -> list[Package]:
    """Download `names` and everything they depend on, as for a system on which nothing is installed.

    Raises:
        BenchmarkError: there is no apt, or it fails.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise BenchmarkError(f"the closure is made of Debian packages, and {tool} is not here")
    archives = directory / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    (directory / "status").touch()
    command = [
        *("apt-get", "install", "--download-only", "--no-install-recommends", "--yes", "--quiet=2"),
        *("-o", f"Dir::State::status={directory / 'status'}"),  # an empty system, not this one
        *("-o", f"Dir::Cache={directory}", "-o", f"Dir::Cache::archives={archives}"),
        *("-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="),  # the directory is ours and may not be `_apt`'s
        *names,
    ]
    try:
        subprocess.run(command, check=True, timeout=DOWNLOAD_TIMEOUT_SECONDS, stdout=subprocess.DEVNULL)
    except subprocess.SubprocessError as error:
        raise BenchmarkError("apt-get could not download the packages; has `apt-get update` been run?") from error
    with ThreadPoolExecutor() as pool:
        return sorted(pool.map(Package.read, archives.glob("*.deb")), key=lambda package: package.name)


def acyclic_references(packages: Sequence[Package]) -> dict[str, list[str]]:
    """The packages each package depends on, dependencies before those that depend on them.

    Debian's dependencies have cycles and a store has none: of every cycle, the edge that closes it when walking
    depth first by name is left out.
    """
    names = {package.name: package.name for package in packages}
    for package in packages:
        for virtual in package.provides:
            names.setdefault(virtual, package.name)
    wanted = {
        package.name: sorted(
            {
                next((names[choice] for choice in group if choice in names), package.name)
                for group in package.dependencies
            }
            - {package.name}
        )
        for package in packages
    }
    references: dict[str, list[str]] = {}
    open_names: set[str] = set()

    def visit(name: str) -> None:
        open_names.add(name)
        kept = [other for other in wanted[name] if other not in open_names]
        for other in kept:
            if other not in references:
                visit(other)
        open_names.remove(name)
        references[name] = kept

    for package in packages:
        if package.name not in references:
            visit(package.name)
    return references
