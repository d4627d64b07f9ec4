"""`harmonia-py catalog`: the catalog of what is pushed, copied between SQLite and PostgreSQL."""

import argparse
import asyncio
import os
import subprocess
from urllib.parse import urlsplit

from harmonia_py.commands.shared.options import add_config, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.progress import add_json, count, print_json, progress_of, results
from harmonia_py.config import key_files
from harmonia_py.errors import ConfigError


def add_arguments(parser: Parser) -> None:
    """The arguments: the source and the target."""
    parser.describe(
        """
        Copy the catalog, of what is pushed, of caches, tokens, keys and pins, from SQLite to PostgreSQL or back.
        Servers go on reading; what they write waits until the copy is done. The copy is read again and held against the
        original, and is there whole or not at all. Files that were pushed stay where they are.""",
        (
            "harmonia-py catalog copy /var/lib/harmonia-py/catalog.sqlite postgresql://harmonia@db/harmonia",
            "into an empty database",
        ),
        (
            "harmonia-py catalog copy FROM TO --then 'systemctl restart harmonia-py'",
            "change the setting first: nothing is written to FROM between the copy and the restart",
        ),
    )
    verbs = parser.add_actions()
    copying = verbs.add_parser("copy", help="copy a catalog into a new one")
    copying.add_argument("source", metavar="FROM", help="a file, or postgresql://user@host/name")
    copying.add_argument("target", metavar="TO", help="a file that is not there, or the URL of an empty database")
    copying.add_argument(
        "--then", metavar="COMMAND", help="run this when the copy is whole, before anything is written to FROM again"
    )
    add_json(copying)
    add_config(copying)


def run(options: argparse.Namespace) -> int:
    """Copy it; the exit status of `--then`, if that was not 0."""
    from harmonia_py.wiring.copying import copy_catalog  # noqa: PLC0415  # it imports what copies a catalog

    for place in (options.source, options.target):
        _refuse_passwords(place)
    status = 0

    def then() -> None:
        nonlocal status
        if options.then is not None:
            status = subprocess.run(options.then, shell=True, check=False).returncode  # noqa: S602  # as was asked

    password = key_files.read_database_password(load(options), os.environ)
    with progress_of("rows") as report:
        copying = copy_catalog(options.source, options.target, password=password, before_release=then, report=report)
        done = asyncio.run(copying)
    if options.as_json:
        print_json({"rows": dict(done)})
    else:
        results().print(f"{count(sum(done.values()), 'row')} copied, and the same when read again")
    return status


def _refuse_passwords(place: str) -> None:
    if "://" not in place:
        return
    parts = urlsplit(place)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigError(f"{parts.scheme}: not a database that is known; write postgresql://user@host/name")
    if parts.password is not None:
        raise ConfigError("a password in a URL is seen by others; name a file in database.password_file, or PGPASSFILE")
