"""The table of `benchmarks.field`: the servers side by side, our goals, how often each was met, and why not more."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks import report
from benchmarks.bench import Case, Goal, Sample
from benchmarks.report import Row

OURS: Final = report.MEASURED
HARMONIA: Final = "Harmonia"
NCPS: Final = "ncps"
NGINX: Final = "nginx"
COLUMNS: Final = (OURS, HARMONIA, NCPS, NGINX)
# Of all rounds so many have to meet a goal.
_ENOUGH: Final = 3 / 4
GOALS: Final[dict[str, tuple[Goal, ...]]] = {
    "start to the first 200": (Goal(0.2, None),),
    "memory of idle workers": (Goal(40, None),),
    "cold narinfos, 16 connections": (Goal(1, HARMONIA),),
    "warm narinfos, 32 connections": (Goal(1.2, NGINX),),
    "absent narinfos, 32 connections": (Goal(1, NGINX),),
    "warm narinfos, one after the other": (Goal(1, NGINX),),
    "NARs as they are, cold, 4 connections": (Goal(1, HARMONIA),),
    "NARs as they are, warm, 1 connection": (Goal(1, HARMONIA), Goal(1.5, NGINX)),
    "NARs as they are, warm, 4 connections": (Goal(1, HARMONIA), Goal(1.5, NGINX)),
    "NARs as they are, warm, 16 connections": (Goal(1, HARMONIA), Goal(1.5, NGINX)),
    "zstd, first download, 4 connections": (Goal(0.6, HARMONIA),),
    "zstd, warm, 1 connection": (Goal(1, NGINX),),
    "zstd, warm, 4 connections": (Goal(1, NGINX),),
    "zstd, warm, 16 connections": (Goal(1, NGINX),),
    "zstd, first time after a start, 4 connections": (Goal(1, NGINX),),
    "256 MiB as they are": (Goal(1, NGINX),),
    "256 MiB as they are, CPU": (Goal(1, NGINX),),
    "mirror, small NARs, cold, 4 connections": (Goal(1, NCPS),),
    "mirror, small NARs, warm, 1 connection": (Goal(1.2, NGINX),),
    "nix copy": (Goal(1, HARMONIA), Goal(1, NGINX)),
}
_FIRST_IN_A_WORKER: Final = (
    "each worker's first request for a file opens it and makes it ready: 0.07 ms of a core, and 0.2 where its path has "
    "to be asked for; the next ones are as fast as nginx"
)
_TREES: Final = (
    "a NAR is made of a tree: its files, 25,000 in all, are opened and sent one by one from Python, whose threads "
    "share a lock; nginx has one file for each NAR"
)
_IN_TURNS: Final = "sent in turns of a MiB, each after a look into the page cache, so that other clients do not wait"
_CONNECTIONS: Final = ("1 connection", "4 connections", "16 connections")
# Why a goal that is missed is not met; shown beside the rows that miss it.
WHY: Final[dict[str, str]] = {
    "start to the first 200": "CPython and the libraries take 0.16 s, most of it to import what aiohttp needs",
    "memory of idle workers": (
        "one CPython that has imported what a server needs has 33 MB, 23 of them with aiohttp, and each worker makes "
        "some 9 of these its own by running them, since Python counts references where the objects are"
    ),
    "cold narinfos, 16 connections": (
        "one takes 0.2 ms of a core: 0.05 of the thread that reads rows, in each worker by itself, 0.02 for the "
        "signature; the rest is Python's, in a hundred small steps"
    ),
    "warm narinfos, 32 connections": "one takes 14 µs of a core; the load takes the rest of the two cores",
    "warm narinfos, one after the other": (
        "one takes 16 µs of a core, nginx 17; on the core of the client both answer in 30 µs, on another one in 100 or "
        "more, and there the kernel leaves this server more often"
    ),
    "absent narinfos, 32 connections": (
        "one takes 16 µs of a core, nginx 13: five of them are Python's, the others the same system calls as nginx's"
    ),
    "NARs as they are, cold, 4 connections": _TREES,
    **{f"NARs as they are, warm, {number}": _TREES for number in _CONNECTIONS},
    "zstd, first download, 4 connections": (
        "every NAR is hashed as well, and its file made durable and kept, at a priority below that of answers"
    ),
    **{f"zstd, warm, {number}": _FIRST_IN_A_WORKER for number in _CONNECTIONS},
    "zstd, first time after a start, 4 connections": _FIRST_IN_A_WORKER,
    "256 MiB as they are": _IN_TURNS,
    "256 MiB as they are, CPU": _IN_TURNS,
    "mirror, small NARs, cold, 4 connections": (
        "each NAR is decompressed, hashed and durable before it is entered; ncps verifies none and syncs no file"
    ),
    "mirror, small NARs, warm, 1 connection": (
        f"the files of the row before are still made durable and entered meanwhile; {_FIRST_IN_A_WORKER}"
    ),
    "nix copy": "the client's own work, the same beside each server, is nearly all of it",
}


def format_field(samples: Sequence[Sample]) -> str:
    """A Markdown table with medians over the rounds, and of ours in how many of them the goal was met."""
    names = dict.fromkeys((*COLUMNS, *(sample.server for sample in samples)))
    more = {"goal": _goal, "met": _met, "why no further": _why}
    return report.format_columns(samples, {name: name for name in names}, more)


def _goal(case: Case, _: Mapping[str, Row]) -> str:
    return ", ".join(report.format_goal(case, goal) for goal in GOALS.get(case.what, ()))


def _met(case: Case, servers: Mapping[str, Row]) -> str:
    """In how many rounds all goals were met; where these are too few, the factor that was missing for enough."""
    factors = _factors(case, servers)
    if not factors:
        return ""
    count, missing = sum(factor <= 1 for factor in factors), _missing(factors)
    return f"{count} of {len(factors)}" + (f", by {missing:.2f}" if missing > 1 else "")


def _why(case: Case, servers: Mapping[str, Row]) -> str:
    factors = _factors(case, servers)
    return WHY.get(case.what, "") if factors and _missing(factors) > 1 else ""


def _missing(factors: Sequence[float]) -> float:
    """The factor within which enough rounds are; at most 1 where enough meet the goal."""
    return sorted(factors)[math.ceil(_ENOUGH * len(factors)) - 1]


def _factors(case: Case, servers: Mapping[str, Row]) -> list[float]:
    """For each round, by which factor the goal that is farthest away was missed; nothing without what it refers to."""
    wanted = [goal for goal in GOALS.get(case.what, ()) if goal.server is None or goal.server in servers]
    if OURS not in servers or not wanted:
        return []
    ours = servers[OURS].values
    bounds = [
        [goal.limit * base for base in servers[goal.server].values] if goal.server else [goal.limit] * len(ours)
        for goal in wanted
    ]
    return [
        max(bound / value if case.more_is_better else value / bound for bound in of_round)
        for value, *of_round in zip(ours, *bounds, strict=False)  # the last round may have ended early
    ]
