"""The command line: `harmonia-py [VERB]`; without a verb it serves."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from harmonia_py import __version__, log_format
from harmonia_py.errors import HarmoniaError
from harmonia_py.verbs import looking, making, paths, serving

_DESCRIPTION: Final = """\
A Nix binary cache: serves the local Nix store over HTTP, signed.

Without a verb it serves. Without a configuration file it serves /nix/store on
[::]:5000, signed with a key that it makes on first start."""

_EPILOGUE: Final = """\
files:
  ./settings.toml, or what $CONFIG_FILE or --config names; see harmonia.toml.example

examples:
  harmonia-py                                     serve, with no configuration at all
  harmonia-py serve --config /etc/harmonia.toml   serve as configured
  harmonia-py check-config -c harmonia.toml       print what would be in effect
  harmonia-py generate-key cache.example.org-1    make a signing key
  harmonia-py doctor --url https://cache.nixos.org   look at any cache as a client"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 for a clear error, or 2 for a wrong command line."""
    options = _parser().parse_args(_with_verb(list(sys.argv[1:] if arguments is None else arguments)))
    log_format.set_up(level="info", json_lines=False, access_log=False)
    try:
        status: int = options.run(options)
    except HarmoniaError as error:
        print(f"{_prefix()} {error}", file=sys.stderr)  # noqa: T201  # the command line speaks here
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return status


def _with_verb(arguments: list[str]) -> list[str]:
    """Harmonia is started without a verb: what begins with an option of `serve`, or with nothing, serves."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version", "-V"}):
        return ["serve", *arguments]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harmonia-py",
        description=_DESCRIPTION,
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"harmonia-py {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    serving.add_serve(verbs)
    serving.add_check_config(verbs)
    making.add_generate_key(verbs)
    making.add_generate_token(verbs)
    paths.add_compress(verbs)
    paths.add_verify(verbs)
    paths.add_mirror(verbs)
    paths.add_explain(verbs)
    looking.add_top(verbs)
    looking.add_doctor(verbs)
    return parser


def _prefix() -> str:
    # https://no-color.org
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return "\033[1;31merror:\033[0m" if colours else "error:"


if __name__ == "__main__":
    sys.exit(main())
