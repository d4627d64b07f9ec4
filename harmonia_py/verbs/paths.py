"""`compress`, `verify`, `mirror` and `explain`: what is done with store paths."""

import argparse
from pathlib import Path

from harmonia_py.verbs.options import Verbs, add_upstream, load


def add_compress(verbs: Verbs) -> None:
    """The verb that makes files ahead."""
    compress = verbs.add_parser("compress", help="make compressed NARs ahead of the first download", allow_abbrev=False)
    which = compress.add_argument_group("which store paths")
    which.add_argument("paths", metavar="PATH", nargs="*", help="a store path, or a link to one such as ./result")
    which.add_argument("--closure", action="store_true", help="the closures of the paths as well")
    which.add_argument("--all", action="store_true", dest="everything", help="every valid path of the store")
    compress.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    compress.set_defaults(run=_compress, usage=compress.error)


def add_verify(verbs: Verbs) -> None:
    """The verb that reads them again."""
    check = verbs.add_parser(
        "verify", help="read every kept NAR again, remove what is rotten, list damaged store paths", allow_abbrev=False
    )
    check.add_argument("--json", action="store_true", dest="as_json", help="print a report that scripts can read")
    check.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    check.set_defaults(run=_verify)


def add_mirror(verbs: Verbs) -> None:
    """The verb that fetches ahead."""
    mirror = verbs.add_parser(
        "mirror", help="fetch store paths from upstreams ahead, and keep them", allow_abbrev=False
    )
    which = mirror.add_argument_group("which store paths")
    which.add_argument("paths", metavar="PATH", nargs="*", help="a store path, a hash part, or a link such as ./result")
    which.add_argument("--closure", action="store_true", help="the closures of the paths as well")
    which.add_argument(
        "--store-paths",
        metavar="FILE",
        type=Path,
        help="those in a file, one a line, such as a channel's store-paths.xz",
    )
    add_upstream(mirror)
    mirror.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    mirror.set_defaults(run=_mirror, usage=mirror.error)


def add_explain(verbs: Verbs) -> None:
    """The verb that says where a path comes from."""
    explain = verbs.add_parser(
        "explain", help="say where one store path would come from, and why it would or would not", allow_abbrev=False
    )
    explain.add_argument("path", metavar="HASH-OR-PATH", help="a hash part or a store path")
    add_upstream(explain)
    explain.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    explain.set_defaults(run=_explain)


def _compress(options: argparse.Namespace) -> int:
    from harmonia_py import keeping  # noqa: PLC0415  # `serve` does without progress bars

    if bool(options.paths) == options.everything:
        options.usage("name store paths, or --all")
    settings = load(options)[1]
    return keeping.compress(settings, keeping.Wanted(options.paths, options.closure, options.everything))


def _verify(options: argparse.Namespace) -> int:
    from harmonia_py import keeping  # noqa: PLC0415  # as above

    return keeping.verify(load(options)[1], as_json=options.as_json)


def _mirror(options: argparse.Namespace) -> int:
    from harmonia_py import mirroring  # noqa: PLC0415  # as above

    if not options.paths and options.store_paths is None:
        options.usage("name store paths, or --store-paths FILE")
    settings = load(options)[1]
    return mirroring.mirror(settings, options.paths, closure=options.closure, store_paths=options.store_paths)


def _explain(options: argparse.Namespace) -> int:
    from harmonia_py import mirroring  # noqa: PLC0415  # as above

    return mirroring.explain(load(options)[1], options.path)
