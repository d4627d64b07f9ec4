"""`harmonia-py audit`: who changed what, when."""

import argparse
import json
from datetime import UTC, datetime

from harmonia_py.catalog.audit import AuditEntry
from harmonia_py.catalog.paging import rows_of
from harmonia_py.commands.shared.catalog import in_catalog
from harmonia_py.commands.shared.options import add_config, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.database.catalog import SqlCatalog


def add_arguments(parser: Parser) -> None:
    """The options: the cache."""
    parser.describe(
        """
        Print the audit log, the oldest entry first, one JSON object a line: pushes, deletions, and every change of
        caches, tokens, keys and pins, with the principal that made it.""",
        ("harmonia-py audit | tail", "what was done lately"),
        ("harmonia-py audit --cache team", "of one cache"),
    )
    parser.add_argument("--cache", metavar="NAME", help="only what was done to this cache")
    add_config(parser)


def run(options: argparse.Namespace) -> None:
    """Print it."""
    config = load(options)

    async def show(catalog: SqlCatalog) -> None:
        async for one in rows_of(catalog.audit.page, lambda one: (one.at_ns, one.id)):
            if options.cache in (None, one.cache):
                print(_line(one))

    in_catalog(config, show)


def _line(one: AuditEntry) -> str:
    time = datetime.fromtimestamp(one.at_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    fields = {"time": time, "principal": one.principal, "action": one.action, "cache": one.cache}
    return json.dumps({**fields, "subject": one.subject, "detail": json.loads(one.detail)}, ensure_ascii=False)
