"""What is imported before the workers are forked, and what stays out."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from harmonia_py.config.settings import Config
from harmonia_py.server import serve
from harmonia_py.wiring.parts import import_parts
import_parts(Config(state_directory=sys.argv[1], compression=sys.argv[2], nix_db_path=sys.argv[3]))
parts = ("wiring.kept_directory", "wiring.compressed", "mirror.mirror", "web.nix.push")
print(*(name for name in ("sqlite3", *(f"harmonia_py.{part}" for part in parts)) if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("compression", "has_catalog", "reads_store", "imported"),
    [
        ("none", False, False, []),
        ("none", False, True, ["sqlite3"]),
        ("zstd", False, False, ["sqlite3", "harmonia_py.wiring.kept_directory", "harmonia_py.wiring.compressed"]),
        ("none", True, False, ["sqlite3", "harmonia_py.web.nix.push"]),
    ],
)
def test_workers_share_the_parts_that_the_configuration_takes(
    tmp_path: Path, *, compression: str, has_catalog: bool, reads_store: bool, imported: list[str]
) -> None:
    """Each worker imported the catalog and what is kept by itself: 5 MB more for each."""
    if has_catalog:
        (tmp_path / "catalog.sqlite").touch()
    (tmp_path / "db.sqlite").touch()
    database = tmp_path / ("db.sqlite" if reads_store else "nowhere")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), compression, str(database)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == imported


BUCKET_PROGRAM = """
import asyncio, sys
from harmonia_py.config.settings import Config
from harmonia_py.config.storage_tables import Storage
from harmonia_py.server import serve
from harmonia_py.wiring.bucket import s3_settings
from harmonia_py.wiring.files import open_files
from harmonia_py.wiring.parts import import_parts
config = Config(state_directory=sys.argv[1], storage=Storage(url="s3://nix-cache", hot_max_size=sys.argv[2] or None))
import_parts(config)

async def main():
    async with open_files(sys.argv[1], s3_settings(config)) as files:
        assert files.bucket is not None

asyncio.run(main())
print("harmonia_py.storage.s3.hot" in sys.modules)
"""


@pytest.mark.parametrize(("room", "imported"), [("", False), ("1 GiB", True)])
def test_what_makes_copies_of_a_bucket_is_imported_where_it_is_configured(
    tmp_path: Path, *, room: str, imported: bool
) -> None:
    """Every server with a bucket imported the copies, and with them what directories are made of."""
    (tmp_path / "catalog.sqlite").touch()
    command = [sys.executable, "-c", BUCKET_PROGRAM, str(tmp_path), room]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(imported)]


LIBRARIES_PROGRAM = """
import sys
from harmonia_py import cli
cli.make_parser(["serve"]).parse_args(["serve"])
from harmonia_py.server.framework import without_client
without_client()
from harmonia_py.config.settings import Config
from harmonia_py.server import serve
from harmonia_py.wiring.parts import import_parts
import_parts(Config(state_directory=sys.argv[1], compression="zstd"))
from harmonia_py.database import migrations
assert migrations.versions()
print(*(name for name in ("difflib", "importlib.resources", "jinja2", "rich", "zipfile") if name in sys.modules))
"""


def test_a_server_does_not_import_what_pages_terminals_and_mistakes_take(tmp_path: Path) -> None:
    """The files of the package were read by what also reads zip files: half a megabyte, and a fortieth of a start."""
    command = [sys.executable, "-c", LIBRARIES_PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


PORTS_PROGRAM = """
import sys
from harmonia_py.config.settings import Config
from harmonia_py.server import serve
from harmonia_py.wiring.parts import import_parts
import_parts(Config(state_directory=sys.argv[1], compression="zstd"))
names = ("mirrored", "collection", "sessions", "access", "pins")
print(*(name for name in names if f"harmonia_py.database.{name}" in sys.modules))
"""


@pytest.mark.parametrize(
    ("has_catalog", "imported"),
    [(False, ["mirrored", "collection"]), (True, ["mirrored", "collection", "sessions", "access", "pins"])],
)
def test_only_what_takes_pushes_imports_the_ports_for_them(
    tmp_path: Path, *, has_catalog: bool, imported: list[str]
) -> None:
    """A server that compresses imported all ports of a catalog, and made each in every worker: 1.4 MB with two."""
    if has_catalog:
        (tmp_path / "catalog.sqlite").touch()
    done = subprocess.run(
        [sys.executable, "-c", PORTS_PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == imported
