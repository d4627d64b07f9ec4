"""What a cache takes when builds come generation after generation, by how their NARs are kept.

    python -m benchmarks.generations DIRECTORY
    python -m benchmarks.deduplication DIRECTORY [--output benchmarks/results/deduplication.md]
    python -m benchmarks.deduplication DIRECTORY --mirror --generations 2

Every store path is kept once, as a cache keeps it. What the catalog takes beside the bytes is counted as `ROW_BYTES`
for each chunk, and `EDGE_BYTES` for each use of one.
"""

import argparse
import hashlib
import json
import lzma
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pyfastcdc import FastCDC

from harmonia_py.chunks.cutting import Cutter
from harmonia_py.chunks.frames import compress_chunk
from harmonia_py.chunks.recipe import ChunkHash, Recipe
from harmonia_py.chunks.recipe_writer import RecipeWriter
from harmonia_py.chunks.sizes import SIZES, CutSizes
from harmonia_py.contents.pieces import whole_portions
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.layout import Layout
from harmonia_py.nix.store_path import HashPart
from harmonia_py.store.files.dump import dump, scan

# What a catalog grows by for each of 300,000 chunks and of 600,000 uses of them, indices included.
ROW_BYTES = 115
EDGE_BYTES = 48


def nar_of(path: Path) -> bytes:
    """The NAR of a tree."""
    pieces = dump(str(path), Layout.of(scan(str(path))))
    return b"".join(map(bytes, whole_portions(pieces)))


@dataclass(slots=True)
class Chunks:
    """Chunks that are there already, and what they take."""

    level: int = 3
    frames: dict[bytes, int] = field(default_factory=dict)
    size: int = 0
    uses: int = 0

    def keep(self, data: bytes) -> tuple[bytes, int]:
        """The hash of a chunk and the length of its frame."""
        digest = hashlib.sha256(data).digest()
        frame_size = self.frames.get(digest)
        if frame_size is None:
            frame_size = self.frames[digest] = len(compress_chunk(data, self.level))
            self.size += frame_size
        self.uses += 1
        return digest, frame_size

    @property
    def total(self) -> int:
        """With what the catalog takes."""
        return self.size + len(self.frames) * ROW_BYTES + self.uses * EDGE_BYTES


class Whole:
    """Each NAR as a file."""

    def __init__(self, level: int = 3) -> None:
        self.total = 0
        self.sent = 0
        self._level = level

    def add(self, nar: bytes, _: list[HashPart]) -> None:
        """Keep a NAR."""
        size = len(compress_chunk(nar, self._level))
        self.total += size
        self.sent += size


class Xz:
    """Each NAR as the xz file that an upstream has of it, which a mirror keeps as it came."""

    def __init__(self) -> None:
        self.total = 0
        self.sent = 0

    def add(self, nar: bytes, _: list[HashPart]) -> None:
        """Keep a NAR."""
        size = len(lzma.compress(nar))
        self.total += size
        self.sent += size


class Plain:
    """Each NAR cut by content as a stream, with the parameters that Attic comes with."""

    def __init__(self, level: int = 3) -> None:
        self.chunks = Chunks(level)
        self.sent = 0
        self._cdc = FastCDC(64 * 1024, min_size=16 * 1024, max_size=256 * 1024)

    @property
    def total(self) -> int:
        """Bytes that are kept."""
        return self.chunks.total

    def add(self, nar: bytes, _: list[HashPart]) -> None:
        """Keep a NAR; one below 64 KiB is not cut."""
        if len(nar) < 64 * 1024:
            self.sent += self.chunks.keep(nar)[1]
            return
        for chunk in self._cdc.cut_buf(nar):
            self.sent += self.chunks.keep(nar[chunk.offset : chunk.offset + chunk.length])[1]


class ByFiles:
    """Files cut by content, with or without the hash parts of references."""

    def __init__(self, sizes: CutSizes = SIZES, *, removes_references: bool, level: int = 3) -> None:
        self.chunks = Chunks(level)
        self.recipes = 0
        self.sent = 0
        self._sizes = sizes
        self._removes_references = removes_references

    @property
    def total(self) -> int:
        """Bytes that are kept."""
        return self.chunks.total + self.recipes

    def add(self, nar: bytes, references: list[HashPart]) -> None:
        """Keep a NAR."""
        recipe = self.recipe_of(nar, references)
        self.recipes += len(recipe.format())
        self.sent += recipe.file_size

    def recipe_of(self, nar: bytes, references: list[HashPart]) -> Recipe:
        """How a NAR is made of chunks, which are kept."""
        removed = references if self._removes_references else []
        cutter, writer = Cutter(removed, self._sizes), RecipeWriter()
        for pieces in (cutter.update(nar), cutter.finish()):
            for piece in pieces:
                if len(piece) <= self._sizes.literal:
                    writer.add_literal(piece)
                else:
                    digest, frame_size = self.chunks.keep(piece)
                    writer.add_chunk(ChunkHash(digest), len(piece), frame_size)
        nar_hash = Hash("sha256", hashlib.sha256(nar).digest())
        return writer.finish(nar_hash, removed, array("Q", cutter.places), array("H", cutter.numbers))


Scheme = Whole | Xz | Plain | ByFiles
KIB = 1024
SCHEMES: dict[str, Callable[[], Scheme]] = {
    "whole files": Whole,
    "plain CDC": Plain,
    "files by content": lambda: ByFiles(removes_references=False),
    "files by content, references taken out": lambda: ByFiles(removes_references=True),
}
MIRROR: dict[str, Callable[[], Scheme]] = {
    "as xz": Xz,
    "as zstd": Whole,
    "in chunks": lambda: ByFiles(removes_references=True),
}


def _sizes(least: int, usual: int, most: int, **others: int) -> CutSizes:
    return CutSizes(least=least * KIB, usual=usual * KIB, most=most * KIB, **others)


VARIANTS: dict[str, Callable[[], Scheme]] = {
    "8/32/128 file 16": lambda: ByFiles(_sizes(8, 32, 128, large_file=16 * KIB), removes_references=True),
    "16/64/256 file 16": lambda: ByFiles(_sizes(16, 64, 256, large_file=16 * KIB), removes_references=True),
    "32/128/512 file 16": lambda: ByFiles(_sizes(32, 128, 512, large_file=16 * KIB), removes_references=True),
    "64/256/1024 file 16": lambda: ByFiles(_sizes(64, 256, 1024, large_file=16 * KIB), removes_references=True),
    "16/64/256 file 64": lambda: ByFiles(_sizes(16, 64, 256, large_file=64 * KIB), removes_references=True),
    "16/64/256 file 128": lambda: ByFiles(_sizes(16, 64, 256, large_file=128 * KIB), removes_references=True),
    "32/128/512 file 128": lambda: ByFiles(_sizes(32, 128, 512, large_file=128 * KIB), removes_references=True),
    "32/128/512 file 64 gap 8": lambda: ByFiles(_sizes(32, 128, 512, gap=8 * KIB), removes_references=True),
    "32/128/512 file 64 level 5": lambda: ByFiles(removes_references=True, level=5),
    "32/128/512 file 64 level 8": lambda: ByFiles(removes_references=True, level=8),
    "plain CDC level 8": lambda: Plain(8),
    "whole files level 8": lambda: Whole(8),
}


def measure(
    directory: Path, schemes: dict[str, Scheme], most: int | None
) -> tuple[list[list[int]], int, dict[str, float]]:
    """After each of `most` generations, what each scheme takes; the bytes of all NARs; CPU seconds of each scheme."""
    generations: list[dict[str, list[str]]] = json.loads((directory / "generations.json").read_text())
    seen: set[str] = set()
    rows, nar_bytes = [], 0
    seconds = dict.fromkeys(schemes, 0.0)
    for generation in generations[:most]:
        for path, references in generation.items():
            if path in seen:
                continue
            seen.add(path)
            nar = nar_of(directory / "store" / path)
            nar_bytes += len(nar)
            hash_parts = [HashPart(one[:32]) for one in (path, *references)]
            for name, scheme in schemes.items():
                began = time.process_time()
                scheme.add(nar, hash_parts)
                seconds[name] += time.process_time() - began
        rows.append([nar_bytes, *(scheme.total for scheme in schemes.values())])
        print(rows[-1], flush=True)
    return rows, nar_bytes, seconds


def report(rows: list[list[int]], schemes: dict[str, Scheme], seconds: dict[str, float]) -> str:
    """The table, in Markdown; MB are millions of bytes."""
    names = list(schemes)
    lines = ["| generation | NARs | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for number, row in enumerate(rows):
        lines.append(f"| {number} | " + " | ".join(f"{value / 1e6:.1f}" for value in row) + " |")
    total, first = rows[-1], rows[-1][1]
    lines.append("| of whole files | | " + " | ".join(f"{value / first:.3f}" for value in total[1:]) + " |")
    lines.append("| is sent, all paths | | " + " | ".join(f"{one.sent / 1e6:.1f}" for one in schemes.values()) + " |")
    counts = [0 if isinstance(one, Whole | Xz) else len(one.chunks.frames) for one in schemes.values()]
    lines.append("| chunks | | " + " | ".join(map(str, counts)) + " |")
    speeds = [f"{total[0] / 1e6 / max(seconds[name], 1e-9):.0f}" for name in names]
    lines.append("| MB of NARs per CPU second | | " + " | ".join(speeds) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="made by benchmarks.generations")
    parser.add_argument("--variants", action="store_true", help="other sizes, in place of other schemes")
    parser.add_argument("--mirror", action="store_true", help="what a mirror can keep, in place of other schemes")
    parser.add_argument("--generations", type=int, metavar="N", help="only the first ones")
    parser.add_argument("--output", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    made = MIRROR if arguments.mirror else {**SCHEMES, **VARIANTS} if arguments.variants else SCHEMES
    schemes = {name: make() for name, make in made.items()}
    rows, _, seconds = measure(arguments.directory, schemes, arguments.generations)
    table = report(rows, schemes, seconds)
    print(table)
    if arguments.output is not None:
        arguments.output.write_text(table)


if __name__ == "__main__":
    main()
