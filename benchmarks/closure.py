"""The closure that is measured: Debian packages, one path of many small files, one big file, and a root above them all.

It is built once and kept under `$HARMONIA_PY_CACHE` or `~/.cache/harmonia-py/bench`.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import BenchmarkError, debian
from benchmarks.nix_store import STORE_DIR, NixStore, Registration, canonicalise, nar_hash_of_text, remove_tree
from harmonia_py.nix import base32

MIB = 1 << 20
FORMS = ("none", "zstd")
TEMPORARY_PREFIX = "run-"  # of directories beside the closure that are removed when a run ends, or when the next begins
_VERSION = 1  # of the layout; another number builds everything anew
_FILES_PER_DIRECTORY = 500


@dataclass(frozen=True, slots=True)
class Recipe:
    """How large a closure is.

    Attributes:
        name: of its directory in the cache.
        packages: Debian packages; their dependencies come with them.
        small_files: number of files in the path of small files, 1 to 8 KiB each.
        big_file: size in bytes of the one file of the big path.
        tiny_paths: valid paths outside of the closure, for narinfos that nobody has asked for before.
        disk: bytes that it takes with its file caches, and kept compressed files of two servers.
    """

    name: str
    packages: tuple[str, ...]
    small_files: int
    big_file: int
    tiny_paths: int
    disk: int


FULL = Recipe("full", ("build-essential", "firefox-esr", "gimp", "git", "vim"), 50_000, 1024 * MIB, 30_000, 12 << 30)
SMALL = Recipe("small", ("python3",), 2_000, 32 * MIB, 10_000, 1 << 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """A closure on disk.

    Attributes:
        directory: where everything of it is kept.
        paths: base names in the order of building, the root of the closure last.
        tiny: base names of the valid paths that are outside of the closure.
        big: base name of the path with the one big file.
        small_files: base name of the path with many small files.
        nar_size: bytes of all NARs of the closure.
    """

    directory: Path
    paths: tuple[str, ...]
    tiny: tuple[str, ...]
    big: str
    small_files: str
    nar_size: int

    @property
    def store(self) -> NixStore:
        """The store that holds it."""
        return NixStore(self.directory / "root")

    @property
    def root(self) -> str:
        """Full path of the root of the closure."""
        return f"{STORE_DIR}/{self.paths[-1]}"

    @property
    def secret_key(self) -> Path:
        """File with the key that signs every cache of this closure."""
        return self.directory / "key.secret"

    @property
    def public_key(self) -> str:
        """What clients trust."""
        return (self.directory / "key.public").read_text()

    def file_cache(self, form: str) -> Path:
        """Directory of the `file://` cache whose NARs have the compression `form`."""
        return self.directory / f"files-{form}"


def cache_directory() -> Path:
    """Where closures are kept between runs."""
    named = os.environ.get("HARMONIA_PY_CACHE")
    return Path(named) if named else Path.home() / ".cache/harmonia-py/bench"


def prepare(recipe: Recipe, say: Callable[[str], None]) -> Closure:
    """The closure of `recipe`, built now unless it is there from an earlier run.

    It belongs to this process from now on.

    Raises:
        BenchmarkError: it cannot be built, or another run uses it.
    """
    directory = cache_directory() / f"{recipe.name}-{_VERSION}"
    _lock(directory.with_suffix(".lock"))
    summary = directory / "closure.json"
    for left_over in directory.glob(f"{TEMPORARY_PREFIX}*"):
        remove_tree(left_over)
    if not summary.exists():
        remove_tree(directory)
        directory.mkdir(parents=True)
        if (free := shutil.disk_usage(directory).free) < recipe.disk:
            raise BenchmarkError(f"{directory}: {recipe.disk >> 30} GiB are needed and {free >> 30} GiB are free")
        facts = _Builder(recipe, directory, say).build()
        summary.write_text(json.dumps(facts))
    facts = json.loads(summary.read_text())
    return Closure(
        directory=directory,
        paths=tuple(facts["paths"]),
        tiny=tuple(facts["tiny"]),
        big=facts["big"],
        small_files=facts["small_files"],
        nar_size=facts["nar_size"],
    )


def _lock(file: Path) -> None:
    """Hold `file` as long as this process lives."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BenchmarkError("another run uses the closure") from None


class _Builder:
    """Builds a closure in a directory."""

    def __init__(self, recipe: Recipe, directory: Path, say: Callable[[str], None]) -> None:
        self._recipe = recipe
        self._directory = directory
        self._say = say
        self._store = NixStore(directory / "root")
        self._references: dict[str, tuple[str, ...]] = {}  # base names, in the order of building

    def build(self) -> dict[str, object]:
        """Everything, and what there is to know of it."""
        self._store.real_store.mkdir(parents=True)
        self._say(f"downloading Debian packages: {', '.join(self._recipe.packages)} and dependencies")
        packages = debian.download(self._recipe.packages, self._directory / "debian")
        self._say(f"unpacking {len(packages)} packages")
        unpacked = list(self._unpack(packages))
        files = [file for base_name in unpacked for file in self._files(base_name)]
        self._say(f"{self._recipe.small_files} small files and a file of {self._recipe.big_file // MIB} MiB")
        small_files = self._add(
            "small-files", (), lambda path: _write_small_files(path, files, self._recipe.small_files)
        )
        big = self._add("big-file", (), lambda path: _write_big_file(path, files, self._recipe.big_file))
        self._add("closure", (*unpacked, small_files, big), _write_root)
        paths = list(self._references)
        tiny = [
            self._add(f"tiny-{number}", unpacked[:8], lambda path: path.write_text(path.name))
            for number in range(self._recipe.tiny_paths)
        ]
        self._say("hashing and registering the paths")
        nar_size = self._register(paths, tiny)
        self._write_file_caches(paths[-1])
        shutil.rmtree(self._directory / "debian")
        return {"paths": paths, "tiny": tiny, "big": big, "small_files": small_files, "nar_size": nar_size}

    def _add(self, name: str, references: Iterable[str], write: Callable[[Path], object]) -> str:
        # Hash parts are fixed by the name alone: the store takes any, and runs can be compared.
        hash_part = base32.encode(hashlib.sha256(f"harmonia-py benchmark {name}".encode()).digest()[:20])
        base_name = f"{hash_part}-{name}"
        path = self._store.real_store / base_name
        write(path)
        if path.is_dir():
            canonicalise(path)
        else:
            path.chmod(0o444)
        self._references[base_name] = tuple(sorted(references))
        return base_name

    def _unpack(self, packages: list[debian.Package]) -> Iterator[str]:
        by_name = {package.name: package for package in packages}
        base_names: dict[str, str] = {}
        for name, references in debian.acyclic_references(packages).items():
            package = by_name[name]
            full_name = f"{name}-{package.version}".translate(str.maketrans(":~", "__"))
            base_names[name] = self._add(full_name, [base_names[other] for other in references], package.unpack)
            yield base_names[name]

    def _files(self, base_name: str) -> Iterator[Path]:
        for directory, names, files in os.walk(self._store.real_store / base_name):
            names.sort()
            yield from (path for name in sorted(files) if not (path := Path(directory, name)).is_symlink())

    def _register(self, paths: list[str], tiny: list[str]) -> int:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hashes = dict(zip(paths, pool.map(self._store.nar_hash, paths), strict=True))
        nar_size = sum(size for _, size in hashes.values())
        hashes |= {base_name: nar_hash_of_text(base_name) for base_name in tiny}
        assert hashes[tiny[0]] == self._store.nar_hash(tiny[0])
        self._store.register(Registration(path, *hashes[path], self._references[path]) for path in hashes)
        return nar_size

    def _write_file_caches(self, root: str) -> None:
        secret = self._store.run("nix", "key", "generate-secret", "--key-name", "bench-1")
        (self._directory / "key.public").write_text(
            self._store.run("nix", "key", "convert-secret-to-public", stdin=secret)
        )
        key = self._directory / "key.secret"
        key.touch(mode=0o600)
        key.write_text(secret)
        for form in FORMS:
            self._say(f"writing the file cache, compression {form}")
            target = f"file://{self._directory / f'files-{form}'}?compression={form}&secret-key={key}"
            self._store.run("nix", "copy", "--no-check-sigs", "--to", target, f"{STORE_DIR}/{root}")


def _write_small_files(path: Path, files: list[Path], count: int) -> None:
    """Slices of real files, so that they compress as real files do."""
    for number in range(count):
        directory = path / f"{number // _FILES_PER_DIRECTORY:04}"
        directory.mkdir(parents=True, exist_ok=True)
        size = 1024 * (1 + number * 7 % 8)
        with files[number * 7919 % len(files)].open("rb") as source:
            (directory / f"file-{number:06}").write_bytes(source.read(size))


def _write_big_file(path: Path, files: list[Path], size: int) -> None:
    """Real files one after the other, from the first again if they do not suffice."""
    path.mkdir()
    with (path / "big").open("wb") as target:
        while target.tell() < size:
            for file in files:
                target.write(file.read_bytes()[: size - target.tell()])
                if target.tell() == size:
                    break


def _write_root(path: Path) -> None:
    path.mkdir()
    (path / "README").write_text("Refers to every path of the benchmark's closure.\n")
