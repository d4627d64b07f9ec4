"""A soak: the service on a booted machine, everything asked of it and everything done to it at once, for a while.

    python -m soak --seconds 90 [--seed 7] [--clients 6] [--json FILE]       # as root, on Debian

It ends with status 1 at the first answer, line of the journal or process that the policy (`policy.py`) does not allow,
and says what happened before; or when memory, descriptors or threads grew (`samples.py`). 77: this machine cannot
boot another, or has no nginx.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from machine import PROJECT
from soak.clients import Client, SlowClient
from soak.conductor import Conductor, Watch
from soak.plan import plan
from soak.report import Report, progress
from soak.samples import growth
from soak.tally import Tally
from soak.world import World

_MAKE_LIMIT: Final = 600
_CANNOT: Final = 77
_PROGRESS_SECONDS: Final = 10.0
# What a reload replaced is closed when it is idle, half a minute later or more.
SETTLE_SECONDS: Final = 120.0
# Of all processes: connections to the daemon and to upstreams, that are kept for the next who needs one.
LEFT_OPEN: Final = 64


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--json", type=Path, help="the summary, as a file")
    options = parser.parse_args()
    if shutil.which("nginx") is None:
        print(
            "soak: there is no nginx, which is an upstream here; on Debian: apt-get install nginx-light",
            file=sys.stderr,
        )
        return _CANNOT
    # `timeout` ends it so, and a terminal that is closed: what it has started ends as well.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    made = subprocess.run(
        [PROJECT / "scripts/make-machine"], stdout=subprocess.PIPE, text=True, check=False, timeout=_MAKE_LIMIT
    )
    if made.returncode != 0:
        return made.returncode
    print(f"soak of {options.seconds:g} s, seed {options.seed}: booting", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as root, World(Path(made.stdout.strip()), Path(root)) as world:
        report = soak(world, options.seconds, options.seed, options.clients)
    print(report.text())
    if options.json is not None:
        options.json.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    return 0 if report.is_good else 1


def soak(world: World, seconds: float, seed: int, clients: int) -> Report:
    tally = Tally()
    events = plan(seed, seconds)
    world.build()
    watch = Watch(world, tally, every=min(5.0, seconds / 45))
    watch.start()
    conductor = Conductor(world, tally, seed)
    load = [
        *(Client(world, tally, f"{seed} {number}") for number in range(clients)),
        SlowClient(world, tally, f"{seed} slow"),
    ]
    began = time.monotonic()
    try:
        for client in load:
            client.start()
        for upto in _slices(began, began + seconds):
            due = [event for event in events if upto - _PROGRESS_SECONDS <= began + event.at < upto]
            conductor.run(due, began, upto)
            print(progress(time.monotonic() - began, tally, watch.samples), flush=True)
            if tally.stop.is_set():
                break
        _end(tally, load, conductor)
        ended = time.monotonic()
        loaded = list(watch.samples)
        if tally.wrong is None:
            settle(world, tally, watch)
            print(f"settled after {time.monotonic() - ended:.0f} s", flush=True)
    finally:
        _end(tally, load, conductor)
        watch.end()
    grown = growth(loaded) if tally.wrong is None else []
    return Report(ended - began, seed, tally, loaded, watch.samples[-1], list(watch.lines), grown)


def _end(tally: Tally, load: Sequence[Client], conductor: Conductor) -> None:
    tally.stop.set()
    for client in load:
        if client.ident is not None:
            client.join()
    conductor.end()


def settle(world: World, tally: Tally, watch: Watch) -> None:
    """When all is over, everything that lasts is served, and the service lets go of what clients made it hold."""
    # What is held against upstreams is held by what a reload replaces.
    world.reload()
    deadline = time.monotonic() + SETTLE_SECONDS
    client = Client(world, tally, "last")
    try:
        for path in world.paths.lasting:
            while not client.fetch(path):
                if time.monotonic() > deadline:
                    tally.fail(f"{path.store_path} is not served any more")
                    return
                time.sleep(0.2)
    except Exception as error:  # noqa: BLE001  # as while others ask
        tally.fail(f"{type(error).__name__}: {error}")
        return
    finally:
        client.close()
    world.reload()
    most = watch.samples[0].descriptors + LEFT_OPEN
    while watch.samples[-1].descriptors > most:
        if time.monotonic() > deadline:
            tally.fail(f"{watch.samples[-1].descriptors} descriptors are open that were {most - LEFT_OPEN} at first")
            return
        time.sleep(0.5)


def _slices(began: float, until: float) -> Sequence[float]:
    """The ends of ten seconds each; the last may be later than `until`."""
    count = -(-int(until - began) // int(_PROGRESS_SECONDS))
    return [began + (number + 1) * _PROGRESS_SECONDS for number in range(count)]


if __name__ == "__main__":
    sys.exit(main())
