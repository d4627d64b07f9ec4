"""How fast a tree of small files is dumped, as a ratio to `nix-store --dump` on the same tree: lower is better.

    python -m benchmarks.micro_dump [DIRECTORY]

Without a directory, one of 50,000 files is made and removed again. Both read from the page cache and write nowhere; the
processor time counts, the best of seven interleaved rounds. A cold layout is what the first download of a path pays.
"""

import argparse
import hashlib
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harmonia_py.nix.listing import format_listing
from harmonia_py.nix.nar_parser import Parser
from harmonia_py.store.files.dump import dump, layout_of, scan

ROUNDS = 7
SIZES = (300, 800, 2000, 4000, 6000, 12_000)


def make_tree(root: Path) -> None:
    blob = os.urandom(max(SIZES))
    for number in range(500):
        directory = root / f"package-{number // 50}" / f"lib{number % 50}"
        directory.mkdir(parents=True)
        for file in range(100):
            (directory / f"file-number-{file}.py").write_bytes(blob[: SIZES[(number + file) % len(SIZES)]])


def processor_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def best(tasks: dict[str, Callable[[], object]]) -> dict[str, float]:
    seconds = dict.fromkeys(tasks, float("inf"))
    for _ in range(ROUNDS):
        for name, task in tasks.items():
            start = processor_seconds()
            task()
            seconds[name] = min(seconds[name], processor_seconds() - start)
    return seconds


def measure(path: str) -> None:
    layout = layout_of(path)
    events = list(scan(path))
    archive = subprocess.run(["nix-store", "--dump", path], stdout=subprocess.PIPE, check=True).stdout

    def drain() -> None:
        for _ in dump(path, layout):
            pass

    def parse() -> None:
        parser = Parser()
        for start in range(0, len(archive), 1 << 18):
            parser.feed(archive[start : start + (1 << 18)])
        parser.close()

    def first_byte() -> float:
        start = time.perf_counter()
        next(dump(path, layout, layout.size // 2))
        return time.perf_counter() - start

    seconds = best(
        {
            "nix-store --dump": lambda: subprocess.run(
                ["nix-store", "--dump", path], stdout=subprocess.DEVNULL, check=True
            ),
            "dump, warm layout": drain,
            "layout": lambda: layout_of(path),
            "listing": lambda: format_listing(events),
            "parse": parse,
            "sha256": lambda: hashlib.sha256(archive).digest(),
        }
    )
    print(f"{len(layout.names)} files, {layout.size / 1e6:.0f} MB, layout {layout.memory / 1e6:.1f} MB")
    print(f"first piece from the middle: {first_byte() * 1000:.1f} ms")
    for name, value in seconds.items():
        print(f"{name:20}{value:8.3f} s   {value / seconds['nix-store --dump']:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?")
    directory = parser.parse_args().directory
    if directory is not None:
        measure(directory)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_tree(Path(folder))
        measure(folder)


if __name__ == "__main__":
    main()
