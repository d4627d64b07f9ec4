"""The command line: `harmonia-py [VERB]`; without a verb it serves."""

import argparse
import importlib
import keyword
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Protocol, cast

from harmonia_py import __version__
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.errors import HarmoniaError, describe_os_error
from harmonia_py.server import log
from harmonia_py.server.framework import without_certificates

_DESCRIPTION: Final = """
A Nix binary cache: serves the local Nix store over HTTP, signed.

Without a verb it serves. Without a configuration file it serves /nix/store on
[::]:5000, signed with a key that it makes on first start.

The configuration file is ./settings.toml, or what $CONFIG_FILE or --config names; see harmonia.toml.example.
Commands that root calls take that of the service, /etc/harmonia-py/settings.toml, where these are not."""


class Command(NamedTuple):
    """A verb, and what it does in one line; `commands/` has a module of its name."""

    verb: str
    summary: str


COMMANDS: Final = (
    Command("serve", "serve the store over HTTP (the default)"),
    Command("check-config", "print the effective configuration as TOML, or say what is wrong with it"),
    Command("generate-key", "make a key that signs narinfos"),
    Command("public-key", "print the public keys that clients must trust"),
    Command("generate-token", "make a token that opens this cache"),
    Command("token", "make, list and revoke tokens of named caches"),
    Command("cache", "make, list, change and delete caches beside the one at /"),
    Command("key", "make, list, rotate and retire the keys that named caches sign with"),
    Command("pin", "keep the closures of paths under a name, and list and remove such pins"),
    Command("gc", "collect what caches do not keep any more, or say what would go, and why"),
    Command("why-kept", "say what keeps a path in a cache: a pin, a push, or its last use"),
    Command("delete", "delete a path from a cache, unless something references it"),
    Command("audit", "print who changed what, when"),
    Command("oidc", "say what the token of a CI's job would be allowed, and why not more"),
    Command("login", "log in to a server, for pushes"),
    Command("logout", "forget the token for a server"),
    Command("use", "let the Nix of this machine substitute from a cache, or undo that"),
    Command("push", "push store paths and their closures to a cache"),
    Command("promote", "publish paths of one cache in another one of the server, with all that they refer to"),
    Command("watch-exec", "run a command, and push what comes into the store meanwhile"),
    Command("watch-store", "push what comes into the store, for as long as it runs"),
    Command("hook", "push what builds make: a queue, and the service that empties it"),
    Command("compress", "make compressed NARs ahead of the first download"),
    Command("fsck", "hold the catalog and the files of what is kept against each other, and repair them"),
    Command("catalog", "copy the catalog between SQLite and PostgreSQL"),
    Command("export", "write a cache as files that any web server serves"),
    Command("import", "take over the caches, keys and paths of a server of Attic"),
    Command("verify", "read every kept NAR again, remove what is rotten, list damaged store paths"),
    Command("mirror", "fetch store paths from upstreams ahead, and keep them"),
    Command("explain", "say where one store path would come from, and why it would or would not"),
    Command("top", "show the live figures of a running server"),
    Command("doctor", "look for what goes wrong in practice, here or at any cache, and say what to do"),
)


class CommandModule(Protocol):
    """The interface of a module in `commands/`."""

    def add_arguments(self, parser: Parser) -> None:
        """Give the verb's parser its description, examples, options and arguments."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Do it; the exit status, 0 if none. `options.usage(message)` ends with 2: the command line is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 for a clear error, or 2 for a wrong command line."""
    _open_closed_streams()
    given = _with_verb(list(sys.argv[1:] if arguments is None else arguments))
    try:
        try:
            options = make_parser(loaded=given[:1]).parse_args(given)
            log.set_up(level="info", json_lines=False, access_log=False)
            run: Callable[[argparse.Namespace], int | None] = options.run
            return run(options) or 0
        finally:
            _flush_standard_output()
    except HarmoniaError as error:
        return _fail(str(error))
    except BrokenPipeError:
        _forget_standard_output()
        return 1
    except KeyboardInterrupt:
        return 1
    except OSError as error:
        _forget_standard_output()
        return _fail(describe_os_error(error))


def make_parser(loaded: Sequence[str] | None = None) -> Parser:
    """The parser of the whole command line, or, where `loaded` has a verb, of that verb alone.

    Where `loaded` has none, all verbs are known by their summaries: for help, and for what was mistyped. A server must
    not pay, in time and memory, for the imports and parsers of every other command.
    """
    parser = Parser(prog="harmonia-py")
    parser.describe(
        _DESCRIPTION,
        ("harmonia-py", "serve, with no configuration at all"),
        ("harmonia-py serve --config /etc/harmonia.toml", "serve as configured"),
        ("harmonia-py check-config -c harmonia.toml", "print what would be in effect"),
        ("harmonia-py generate-key cache.example.org-1", "make a signing key"),
        ("harmonia-py doctor --url https://cache.nixos.org", "look at any cache as a client"),
    )
    parser.add_argument("-V", "--version", action="version", version=f"harmonia-py {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    only = [command for command in COMMANDS if loaded is not None and command.verb in loaded]
    for verb, summary in only or COMMANDS:
        of_verb = verbs.add_parser(verb, help=summary)
        if loaded is None or verb in loaded:
            module = _module_of(verb)
            of_verb.set_defaults(run=module.run, usage=of_verb.error)
            module.add_arguments(of_verb)
    return parser


def _module_of(verb: str) -> CommandModule:
    name = verb.replace("-", "_")
    # PEP 8: what would be a keyword ends with an underscore.
    name = f"{name}_" if keyword.iskeyword(name) else name
    # What speaks TLS makes a context of its own, when it does.
    with without_certificates():
        return cast("CommandModule", importlib.import_module(f"harmonia_py.commands.{name}"))


def _with_verb(arguments: list[str]) -> list[str]:
    """Harmonia is started without a verb: what begins with an option of `serve`, or with nothing, serves."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"-h", "--help", "--version", "-V"}):
        return ["serve", *arguments]
    return arguments


def _open_closed_streams() -> None:
    """Open /dev/null for closed streams: otherwise a file or socket would get their numbers, and the output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  # a device, open until the end


def _flush_standard_output() -> None:
    """Find out here, not at exit, whether what was printed has been written: the exit status must say so."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def _forget_standard_output() -> None:
    """Send the rest of the output nowhere: otherwise Python would try again at exit, and complain."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _fail(message: str) -> int:
    # https://no-color.org
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    prefix = "\033[1;31merror:\033[0m" if colours else "error:"
    for line in message.splitlines():
        print(prefix, line, file=sys.stderr)  # noqa: T201  # the command line speaks here
    return 1


if __name__ == "__main__":
    sys.exit(main())
