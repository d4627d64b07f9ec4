"""The model test for as many steps as one likes, in several processes, each of which has seeds of its own.

    make model ARGS="--steps 1000000 --processes 2 --seed 1"

A line for each portion of steps: its seed, how many steps it took, and the seconds. A portion that finds a
counterexample prints it, is counted, and can be taken again: `--seed SEED --steps 1`.
"""

import argparse
import sys
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from kept_machine import STEPS, make_template, run

# A portion takes some ten seconds.
_EXAMPLES: Final = 150


def portion(template: Path, seed: int) -> tuple[int, int, float, str | None]:
    """Take a portion of steps: its seed, how many they were, in how many seconds, and the counterexample."""
    begun = time.monotonic()
    try:
        taken = run(template, _EXAMPLES, seed=seed)
    except Exception:  # noqa: BLE001  # of whatever kind it is, it is a counterexample
        return seed, 0, time.monotonic() - begun, traceback.format_exc()
    return seed, taken, time.monotonic() - begun, None


def main() -> int:
    """Take all of them; 1 when there was a counterexample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first portion; each further one has the next number"
    )
    options = parser.parse_args()
    begun, taken, found = time.monotonic(), 0, 0
    with TemporaryDirectory() as directory, ProcessPoolExecutor(options.processes) as pool:
        template = make_template(Path(directory))
        # Sequences are a little shorter than they may be: some portions more than it seems are needed.
        seed = options.seed
        pending: set[Future[tuple[int, int, float, str | None]]] = set()
        while taken < options.steps or pending:
            while taken + len(pending) * _EXAMPLES * STEPS < options.steps and len(pending) < options.processes:
                pending.add(pool.submit(portion, template, seed))
                seed += 1
            done = next(as_completed(pending))
            pending.discard(done)
            one, steps, seconds, counterexample = done.result()
            taken += steps
            print(f"seed {one}: {steps} steps in {seconds:.1f} s, {taken} so far", flush=True)
            if counterexample is not None:
                found += 1
                print(counterexample, flush=True)
                if found > options.processes:
                    break
    seconds = time.monotonic() - begun
    print(f"{taken} steps, seeds {options.seed} to {seed - 1}, {seconds:.0f} s, {found} counterexamples")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
