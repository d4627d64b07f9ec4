"""Fixtures for everyone: labs with a real Nix. See lab.py."""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from cpu_seconds import Meter, Table
from hypothesis import settings
from lab import Lab
from template import Template

if TYPE_CHECKING:
    from fault_upstream import FaultUpstream
    from s3_double import S3Double
    from seaweed import Bucket, Seaweed

# Where this is forbidden, as in many containers, each process of a run rewrites the assertions of all tests anew, and
# each program that a test starts compiles itself.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says how busy the machine is. Tests have a time limit of their own (pytest-timeout).
settings.register_profile("harmonia", deadline=None)
settings.load_profile("harmonia")


# What scripts/install-test-tools installs.
_PROGRAMS: Final = ("nix-daemon", "nginx", "zstd", "openssl")


# A file system in memory (shm_open(3)), and how much of that must be free: the fast tests have some hundred megabytes.
_IN_MEMORY: Final = Path("/dev/shm")
_FREE_BYTES: Final = 8 * 1024**3


def _is_large_memory(place: Path) -> bool:
    try:
        found = os.statvfs(place)
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return False
    free = min(found.f_bavail * found.f_frsize, int(fields["MemAvailable"].split()[0]) * 1024)
    return free >= _FREE_BYTES and not found.f_flag & os.ST_NOEXEC and _has_attributes(place)


def _has_attributes(directory: Path) -> bool:
    """Whether files there have attributes of users: in memory, they have had them since Linux 6.6."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            os.setxattr(file.fileno(), "user.test", b"")
    except OSError:
        return False
    return True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cpu", action="store_true", help="show what each test costs in processor time (as root)")


def pytest_configure(config: pytest.Config) -> None:
    """Tests of a program that is not there are skipped, but not where everything must have been tried."""
    if "not slow" in config.getoption("markexpr") and _is_large_memory(_IN_MEMORY):
        # What the fast tests write they would wait for on a disk, a good part of their time.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))
    if config.getoption("--cpu"):
        is_worker = hasattr(config, "workerinput")
        if is_worker or not config.getoption("numprocesses", None):
            config.pluginmanager.register(Meter())
        if not is_worker:
            config.pluginmanager.register(Table())
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing and os.environ.get("CI") == "true":
        raise pytest.UsageError(f"not installed: {', '.join(missing)}; scripts/install-test-tools does it")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect six thousand tests without looking for garbage, and look through none of them for it afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("HARMONIA_PY_BACKING"):
        for item in items:
            if item.get_closest_marker("default_backing"):
                item.add_marker(pytest.mark.skip(reason="of the default backing"))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Let go of the servers of a test: aiohttp remembers the middlewares of a thousand, with all that they had."""
    # The name is private to aiohttp, and not every version has it.
    built = getattr(sys.modules.get("aiohttp.web_app"), "_cached_build_middleware", None)
    if built is not None:
        built.cache_clear()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Template]:
    """What labs are copied from, by the name of their folder."""
    if shutil.which("nix-daemon") is None:
        pytest.fail("Nix is not installed: run `make test`, which installs it")
    base = tmp_path_factory.getbasetemp()
    return {name: Template(base / name, chroot=name == "chroot") for name in ("lab", "chroot")}


def _lab(template: Template, tmp_path: Path) -> Iterator[Lab]:
    lab = template.lab()
    try:
        with lab:
            yield lab
    finally:
        # There it is found after a test that failed.
        lab.root.rename(tmp_path / lab.root.name)


@pytest.fixture
def lab(templates: dict[str, Template], tmp_path: Path) -> Iterator[Lab]:
    """A store with the small closure; its store dir is below `lab.root`."""
    yield from _lab(templates["lab"], tmp_path)


@pytest.fixture
def chroot_lab(templates: dict[str, Template], tmp_path: Path) -> Iterator[Lab]:
    """A store with the small closure whose store dir is `/nix/store`, with the files elsewhere."""
    yield from _lab(templates["chroot"], tmp_path)


@pytest.fixture
def daemon(lab: Lab) -> Lab:
    """`lab`, with its daemon running."""
    lab.start_daemon()
    return lab


@pytest.fixture
def disk_path(tmp_path: Path) -> Iterator[Path]:
    """An empty directory whose file system says what of a file the page cache has: Debian 13 has /tmp in memory."""
    from harmonia_py.runtime.page_cache import says_what_is_cached  # noqa: PLC0415  # only few tests want it

    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="harmonia-py-") as other:  # on a disk, says hier(7)
        for directory in (tmp_path, Path(other)):
            with tempfile.TemporaryFile(dir=directory) as file:
                file.write(b"x")
                file.flush()
                if says_what_is_cached(file.fileno()):
                    break
        else:
            pytest.skip("neither tmp_path nor /var/tmp says what the page cache has")
        yield directory


@pytest.fixture
async def upstream() -> AsyncIterator["FaultUpstream"]:
    """Another cache, which serves what a test gives it, as it says."""
    from fault_upstream import FaultUpstream  # noqa: PLC0415  # only some tests want it

    async with FaultUpstream() as upstream:
        yield upstream


@pytest.fixture
def double() -> Iterator["S3Double"]:
    """A bucket in memory, which answers wrongly when a test says so."""
    from s3_double import S3Double  # noqa: PLC0415  # only few tests want it

    with S3Double() as double:
        yield double


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Seaweed"]:
    """An S3 server, shared by the processes of a test run."""
    from seaweed import Seaweed  # noqa: PLC0415  # only few tests want it

    base = tmp_path_factory.getbasetemp()
    # With pytest-xdist each process has a folder in one that they share.
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with Seaweed(shared / "seaweed") as seaweed:
        yield seaweed


@pytest.fixture
def bucket(seaweed: "Seaweed") -> "Bucket":
    """An empty bucket, which nobody may read who has no key."""
    return seaweed.bucket()
