"""docs/reference/metrics.md, made from the table of families. `generate_reference.py` writes it."""

from typing import Final

from harmonia_py.metrics.families import FAMILIES
from harmonia_py.metrics.family import Family

_HEAD: Final = """\
# Metrics

What `/metrics` has, for all worker processes together. Series are there from the start, with 0, but for these: those of
upstreams and of the mirror come when the configuration names an upstream; durations of requests, and requests with a
status that is unusual for their route, with the first request of their kind; those of a cache that is pushed to with
the next pass of the collector, which runs at the start and every minute on one of the servers that share a catalog, or
when the cache is first used.
Counters survive workers and begin again with the server.
`path` is the name of a route, or `other`; `method` is `GET`, `HEAD` or `other`.

Made from the code by `scripts/generate_reference.py`. A dashboard and alert rules are in `dashboards/`.

| name | kind | labels | what it says |
|---|---|---|---|
"""


def text() -> str:
    """Return the whole page."""
    return _HEAD + "".join(map(_row, FAMILIES)) + "\nBuckets, in seconds:\n\n" + "".join(map(_buckets, FAMILIES))


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |\n"


def _buckets(family: Family) -> str:
    bounds = ", ".join(f"{bound:g}" for bound in family.buckets)
    return f"* `{family.name}`: {bounds}\n" if bounds else ""
