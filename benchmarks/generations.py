"""A corpus for deduplication that anybody can make: store paths over generations, with real references in real files.

    python -m benchmarks.generations DIRECTORY

There are two kinds of store paths, as a distribution that is built by Nix would have them:

* Programs of Debian's sources, compiled here with their store path as the prefix, the dynamic linker and the libraries
  of other store paths in their headers, and compiled anew when a dependency has changed.
* Debian packages in the versions that the ordinary mirror has of them, with the dynamic linker, the RUNPATHs and the
  interpreters of scripts set to other store paths, and wrappers around programs, as nixpkgs makes them.

A hash part follows from what a path is made of and from the hash parts of its dependencies, as Nix computes them. A
generation changes one thing; what depends on it becomes another path. It takes Debian, root or not, `gcc` and `make`,
some 400 MB of downloads and about ten minutes.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from benchmarks import BenchmarkError
from harmonia_py.nix import base32

STORE = "/nix/store"
_TIMEOUT = 1800
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LINKER = "lib64/ld-linux-x86-64.so.2"
_MIRROR = "http://deb.debian.org/debian"
_SUITES = ("bookworm", "bookworm-updates", "trixie", "forky")
_SECURITY = ("bookworm-security", "trixie-security")
_SHEBANG = re.compile(rb"#!\s*/(?:usr/)?bin/(?:env\s+)?(sh|bash|perl|python3)(?![\w.])")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a store path is made.

    Attributes:
        name: of the path.
        source: the Debian package it is the content of, or whose source is compiled.
        commands: that compile it, with `{out}`, `{dest}`, `{flags}`, `{ldflags}` and the names of dependencies in them;
            none for the content of a binary package.
        dependencies: names of other recipes.
    """

    name: str
    source: str
    commands: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()


_MAKE = "make -j2 --silent CFLAGS='{flags}' LDFLAGS='{ldflags}' PREFIX={out} DESTDIR={dest}"
_ZLIB = ("CFLAGS='{flags}' LDFLAGS='{ldflags}' ./configure --prefix={out}", "make -j2 --silent install DESTDIR={dest}")
_BZIP2 = (_MAKE.replace("PREFIX=", "PREFIX={dest}").replace("{flags}", "{flags} -D_FILE_OFFSET_BITS=64") + " install",)
RECIPES = (
    Recipe("glibc", "libc6"),
    Recipe("bash", "bash", (), ("glibc", "ncurses")),
    Recipe("ncurses", "libtinfo6", (), ("glibc",)),
    Recipe("openssl", "libssl3", (), ("glibc",)),
    Recipe("zlib", "zlib", _ZLIB, ("glibc",)),
    Recipe("bzip2", "bzip2", _BZIP2, ("glibc",)),
    Recipe("lz4", "lz4", (f"{_MAKE} install",), ("glibc",)),
    Recipe("zstd", "libzstd1", (), ("glibc",)),
    Recipe("curl", "libcurl4", (), ("glibc", "openssl", "zlib", "zstd")),
    Recipe("sqlite", "libsqlite3-0", (), ("glibc",)),
    Recipe("coreutils", "coreutils", (), ("glibc", "openssl")),
    Recipe("perl", "perl-base", (), ("glibc",)),
    Recipe("python3-minimal", "python3.11-minimal", (), ("glibc", "zlib")),
    Recipe(
        "python3-stdlib", "libpython3.11-stdlib", (), ("glibc", "openssl", "sqlite", "bzip2", "zlib", "ncurses", "bash")
    ),
    Recipe("git", "git", (), ("glibc", "curl", "zlib", "perl", "bash", "coreutils")),
    Recipe("systemd", "systemd", (), ("glibc", "zstd", "lz4", "openssl", "bash")),
    Recipe("nix", "nix-bin", (), ("glibc", "curl", "sqlite", "openssl", "bzip2", "bash")),
    Recipe("qemu-utils", "qemu-utils", (), ("glibc", "zlib", "zstd", "curl")),
)

# What changes from one generation to the next: a package to its next version on the mirror, or how it is compiled.
CHANGES: tuple[tuple[str, ...], ...] = (
    (),
    ("glibc",),
    ("openssl",),
    ("zlib",),
    ("bash", "perl"),
    ("glibc", "git"),
    ("lz4", "sqlite"),
    ("openssl", "systemd"),
    ("curl", "nix"),
    ("glibc", "zstd"),
)


@dataclass(slots=True)
class Mirror:
    """The ordinary mirror, through apt with lists of its own.

    Attributes:
        directory: for lists and packages.
    """

    directory: Path
    _options: list[str] = field(default_factory=list)
    _versions: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Read what the mirror has."""
        for tool in ("apt-get", "apt-cache", "dpkg-deb", "dpkg-source", "gcc", "make"):
            if shutil.which(tool) is None:
                raise BenchmarkError(f"the corpus is made with {tool}, which is not here")
        directory.mkdir(parents=True, exist_ok=True)
        sources = directory / "sources.list"
        lines = [f"deb {_MIRROR} {suite} main" for suite in _SUITES]
        lines += [f"deb {_MIRROR}-security {suite} main" for suite in _SECURITY]
        sources.write_text("\n".join([*lines, f"deb-src {_MIRROR} bookworm main", ""]))
        (directory / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (directory / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        mirror = cls(directory)
        for key, value in {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": directory / "lists",
            "Dir::State::status": directory / "status",
            "Dir::Cache": directory / "cache",
            # Images of containers switch these off, and then each question takes a minute.
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
            "Debug::NoLocking": "1",
        }.items():
            mirror._options += ["-o", f"{key}={value}"]
        if not (directory / "cache" / "pkgcache.bin").exists():
            mirror.apt("apt-get", "update", "--quiet=2")
        return mirror

    def apt(self, program: str, *arguments: str) -> str:
        """What apt says."""
        done = subprocess.run(
            [program, *self._options, *arguments],
            cwd=self.directory, capture_output=True, text=True, timeout=_TIMEOUT, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BenchmarkError(f"{program} {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def versions(self, package: str) -> list[str]:
        """The versions of a package, the oldest first."""
        if package not in self._versions:
            lines = self.apt("apt-cache", "madison", package).splitlines()
            found = [line.split("|")[1].strip() for line in lines if "Sources" not in line]
            self._versions[package] = list(dict.fromkeys(reversed(found)))
        return self._versions[package]

    def unpacked(self, package: str, version: str) -> Path:
        """The files of a binary package."""
        target = self.directory / "unpacked" / f"{package}_{version.replace(':', '.')}"
        if not target.exists():
            self.apt("apt-get", "download", "--quiet=2", f"{package}={version}")
            (deb,) = self.directory.glob("*.deb")
            target.parent.mkdir(exist_ok=True)
            _run(["dpkg-deb", "-x", str(deb), str(target)])
            deb.unlink()
        return target

    def source(self, package: str) -> Path:
        """The unpacked source of a package."""
        target = self.directory / "sources" / package
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            self.apt("apt-get", "source", "--only-source", "--download-only", "--quiet=2", package)
            (description,) = self.directory.glob("*.dsc")
            _run(["dpkg-source", "--no-check", "-x", str(description), str(target)])
            for file in (*self.directory.glob("*.dsc"), *self.directory.glob("*.tar.*")):
                file.unlink()
        return target


def _run(command: Sequence[str], **environment: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT, check=False, env={**os.environ, **environment}
    )
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command)[:200]}: {(done.stdout + done.stderr)[-800:]}")


class Corpus:
    """Makes the paths, each once, below `directory/store`."""

    def __init__(self, directory: Path) -> None:
        self.mirror = Mirror.of(directory / "mirror")
        self._directory = directory
        self._store = directory / "store"
        self._store.mkdir(exist_ok=True)
        self._recipes = {recipe.name: recipe for recipe in RECIPES}
        self._patchelf = self.mirror.unpacked("patchelf", self.mirror.versions("patchelf")[0]) / "usr/bin/patchelf"

    def generation(self, changes: Mapping[str, int]) -> dict[str, list[str]]:
        """The paths of a generation, each with its references. `changes`: how often a recipe has changed."""
        made: dict[str, str] = {}
        references: dict[str, list[str]] = {}
        for name in self._recipes:
            self._make(name, changes, made)
        for name, path in made.items():
            references[path] = [made[other] for other in self._recipes[name].dependencies]
        return references

    def _make(self, name: str, changes: Mapping[str, int], made: dict[str, str]) -> str:
        if name in made:
            return made[name]
        recipe = self._recipes[name]
        dependencies = {other: self._make(other, changes, made) for other in recipe.dependencies}
        change = changes.get(name, 0)
        version = f"change {change}"
        if not recipe.commands:
            versions = self.mirror.versions(recipe.source)
            version = versions[min(change, len(versions) - 1)]
        inputs = json.dumps([recipe.name, recipe.source, recipe.commands, version, sorted(dependencies.values())])
        digest = hashlib.sha256(inputs.encode()).digest()[:20]
        made[name] = f"{base32.encode(digest)}-{name}"
        target = self._store / made[name]
        if not target.exists():
            print(made[name], version, file=sys.stderr, flush=True)
            partial = self._directory / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            if recipe.commands:
                self._compile(recipe, change, partial, made[name], dependencies)
            else:
                shutil.copytree(self.mirror.unpacked(recipe.source, version), partial, symlinks=True)
                self._patch(partial, made[name], dependencies)
            partial.rename(target)
        return made[name]

    def _compile(self, recipe: Recipe, change: int, target: Path, path: str, dependencies: Mapping[str, str]) -> None:
        """Compile a program for its place in the store; it is installed below another directory."""
        work = self._directory / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.mirror.source(recipe.source), work, symlinks=True)
        installed = self._directory / "installed"
        shutil.rmtree(installed, ignore_errors=True)
        hardening = ("", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2 -fstack-protector-strong")[min(change, 2)]
        run_path = ":".join(f"{STORE}/{one}/lib" for one in (path, *dependencies.values()))
        linker = f"{STORE}/{dependencies['glibc']}/{_LINKER}"
        libraries = f"{STORE}/{dependencies['glibc']}/{_LIBRARIES}"
        values = {
            "out": f"{STORE}/{path}",
            "flags": f"-O2 -fPIC {hardening} -ffile-prefix-map={work}=/build",
            "ldflags": f"-Wl,-rpath,{run_path}:{libraries} -Wl,--dynamic-linker={linker}",
            "dest": installed,
            **{other: self._store / one for other, one in dependencies.items()},
        }
        for command in recipe.commands:
            _run(["sh", "-ec", f"cd {work}; {command.format(**values)}"])
        (installed / f"{STORE}/{path}".lstrip("/")).rename(target)

    def _patch(self, target: Path, path: str, dependencies: Mapping[str, str]) -> None:
        """Let programs and scripts name store paths in place of `/usr` and `/bin`."""
        everything = [path, *dependencies.values()]
        run_path = ":".join(f"{STORE}/{one}/{'lib' if self._is_compiled(one) else _LIBRARIES}" for one in everything)
        for file in sorted(target.rglob("*")):
            if file.is_symlink() or not file.is_file():
                continue
            with file.open("rb") as stream:
                head = stream.read(256)
            if head.startswith(b"\x7fELF") and "glibc" in dependencies:
                file.chmod(0o755)
                self._patch_program(file, run_path, dependencies["glibc"])
            elif head.startswith(b"#!"):
                self._patch_script(file, dependencies)
        for file in sorted((target / "usr/bin").glob("*")):
            if file.name in {"git", "python3.11", "nix", "qemu-img"} and not file.is_symlink():
                self._wrap(file, path, dependencies)

    def _patch_program(self, file: Path, run_path: str, glibc: str) -> None:
        library = subprocess.run(
            [self._patchelf, "--print-needed", file], capture_output=True, text=True, check=False, timeout=60
        )
        if library.returncode or not library.stdout.strip():
            return  # an object file, or one that needs nothing
        _run([str(self._patchelf), "--set-rpath", run_path, str(file)])
        interpreter = subprocess.run(
            [self._patchelf, "--print-interpreter", file], capture_output=True, text=True, check=False, timeout=60
        )
        if interpreter.returncode == 0 and interpreter.stdout.strip():
            _run([str(self._patchelf), "--set-interpreter", f"{STORE}/{glibc}/{_LINKER}", str(file)])

    def _patch_script(self, file: Path, dependencies: Mapping[str, str]) -> None:
        places = {
            b"sh": ("bash", "usr/bin/bash"), b"bash": ("bash", "usr/bin/bash"), b"perl": ("perl", "usr/bin/perl"),
            b"python3": ("python3-minimal", "usr/bin/python3.11"),
        }  # fmt: skip
        data = file.read_bytes()
        match = _SHEBANG.match(data)
        if match is not None and places[match[1]][0] in dependencies:
            owner, program = places[match[1]]
            file.write_bytes(f"#!{STORE}/{dependencies[owner]}/{program}".encode() + data[match.end() :])

    def _wrap(self, file: Path, path: str, dependencies: Mapping[str, str]) -> None:
        hidden = file.with_name(f".{file.name}-wrapped")
        file.rename(hidden)
        shell = f"{STORE}/{dependencies['bash']}/usr/bin/bash" if "bash" in dependencies else "/bin/sh"
        search = ":".join(f"{STORE}/{one}/usr/bin" for one in dependencies.values())
        file.write_text(
            f'#! {shell} -e\nPATH="{search}:$PATH"\nexport PATH\n'
            f'exec -a "$0" "{STORE}/{path}/{hidden.relative_to(hidden.parents[2])}" "$@"\n'
        )
        file.chmod(0o755)

    def _is_compiled(self, path: str) -> bool:
        return bool(self._recipes[path.partition("-")[2]].commands)


def main() -> None:
    """Make the corpus, or what is missing of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        corpus = Corpus(directory)
        changes: dict[str, int] = {}
        generations = []
        for changed in CHANGES:
            for name in changed:
                changes[name] = changes.get(name, 0) + 1
            generations.append(corpus.generation(changes))
            (directory / "generations.json").write_text(json.dumps(generations, indent=1))
    except BenchmarkError as error:
        sys.exit(f"generations: {error}")


if __name__ == "__main__":
    main()
