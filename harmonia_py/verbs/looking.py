"""`top` and `doctor`: how a server or a machine is."""

import argparse
from pathlib import Path

from harmonia_py.errors import FormatError
from harmonia_py.nix.signing import PublicKey
from harmonia_py.verbs.options import Verbs, load


def add_top(verbs: Verbs) -> None:
    """The verb that shows figures."""
    top = verbs.add_parser("top", help="show the live figures of a running server", allow_abbrev=False)
    top.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        default="http://localhost:5000",
        help="the server (default: http://localhost:5000)",
    )
    top.add_argument("--token-file", metavar="FILE", type=Path, help="with the token that opens the server")
    top.add_argument("--once", action="store_true", help="print the figures of one interval and end")
    top.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object for each interval")
    top.add_argument(
        "-i", "--interval", metavar="SECONDS", type=_seconds, default=2.0, help="between two looks (default: 2)"
    )
    top.set_defaults(run=_top)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:  # noqa: PLR2004  # faster than an eye, slower than patience
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.1 to 3600")
    return seconds


def add_doctor(verbs: Verbs) -> None:
    """The verb that looks for faults."""
    doctor = verbs.add_parser(
        "doctor",
        help="look for what goes wrong in practice, here or at any cache, and say what to do",
        allow_abbrev=False,
    )
    doctor.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    doctor.add_argument("--url", metavar="URL", help="look at this cache as its clients do, not at this machine")
    doctor.add_argument(
        "--key", metavar="NAME:BASE64", action="append", default=[], help="a public key clients trust; may be repeated"
    )
    doctor.add_argument("--path", metavar="PATH", help="a store path that the cache has, or its hash part")
    doctor.add_argument("--token-file", metavar="FILE", type=Path, help="with the token that opens the cache")
    doctor.add_argument("--json", action="store_true", dest="as_json", help="print a report that scripts can read")
    doctor.set_defaults(run=_doctor, usage=doctor.error)


def _top(options: argparse.Namespace) -> int:
    from harmonia_py.top.screen import top  # noqa: PLC0415  # as above

    return top(
        options.url,
        token_file=options.token_file,
        interval=options.interval,
        once=options.once,
        as_json=options.as_json,
    )


def _doctor(options: argparse.Namespace) -> int:
    from harmonia_py.doctor import examine  # noqa: PLC0415  # `serve` needs none of it

    if options.url is not None and options.config is not None:
        options.usage("--url looks from outside, where no configuration counts")
    if options.url is not None and not options.url.startswith(("http://", "https://")):
        options.usage("--url: begins with http:// or https://")
    try:
        public_keys = [PublicKey.parse(key) for key in options.key]
        path = None if options.path is None else examine.parse_path(options.path)
    except FormatError as error:
        options.usage(str(error))
    wanted = examine.Wanted(
        url=options.url, keys=public_keys, path=path, token_file=options.token_file, as_json=options.as_json
    )
    return examine.examine(wanted, lambda: load(options))
