"""Measures harmonia-py beside nginx on a closure of real files: `python -m benchmarks.run --help`."""


class BenchmarkError(Exception):
    """What keeps a benchmark from running, in words for the person who started it."""
