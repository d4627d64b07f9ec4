"""What each test costs in processor time, with every process that it starts: `make test ARGS=--cpu`, as root.

Wall time says how busy the machine was, and what the tests' own process took leaves out the servers and Nix. Here each
process of a test run is in a control group of its own (cgroup v2), with all that it starts. What is shared by several
tests counts for the one that was first to need it.
"""

import os
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

_SHOWN: Final = 30
_PROPERTY: Final = "cpu_seconds"
_NAME: Final = "harmonia-py-tests-"


class Meter:
    """Notes with the last report of each test what was used since the test before it."""

    def __init__(self) -> None:
        mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
        if root is None:
            raise pytest.UsageError("--cpu: there is no cgroup v2 here")
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].removeprefix("0::/")
        self._former, self._group = root / own, root / own / f"{_NAME}{os.getpid()}"
        for left in self._former.glob(f"{_NAME}*"):
            with suppress(OSError):  # of another run, which goes on
                left.rmdir()
        try:
            self._group.mkdir(exist_ok=True)
            (self._group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise pytest.UsageError(f"--cpu: only root can make a control group: {error}") from error
        self._before = self._used()

    def _used(self) -> float:
        fields = dict(line.split() for line in (self._group / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6

    @pytest.hookimpl
    def pytest_collection_finish(self) -> None:
        self._before = self._used()

    @pytest.hookimpl
    def pytest_unconfigure(self) -> None:
        with suppress(OSError):  # what still runs stays in the group, which the next run removes
            (self._former / "cgroup.procs").write_text(str(os.getpid()))
            self._group.rmdir()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            used = self._used()
            report.user_properties.append((_PROPERTY, used - self._before))
            self._before = used
        return report


class Table:
    """Shows the dearest files and tests at the end."""

    def __init__(self) -> None:
        self._tests = Counter[str]()

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, seconds in report.user_properties:
            if name == _PROPERTY and isinstance(seconds, float):
                self._tests[report.nodeid] += seconds  # type: ignore[assignment]  # a counter of seconds

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        files = Counter[str]()
        for test, seconds in self._tests.items():
            files[test.partition("::")[0]] += seconds
        terminalreporter.section(f"{self._tests.total():.0f} s of processor time")
        for table in (files, self._tests):
            for name, seconds in table.most_common(_SHOWN):
                terminalreporter.write_line(f"{seconds:7.1f} s {name}")
            terminalreporter.write_line("")
