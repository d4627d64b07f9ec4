"""The command line: `harmonia-py [VERB]`; without a verb it serves."""

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from harmonia_py import __version__, config, keys, listen, log_format, tokens
from harmonia_py.cache.access import TokenHash
from harmonia_py.errors import ConfigError, FormatError, HarmoniaError
from harmonia_py.nix.signing import PublicKey, SecretKey

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
    _add_serve(verbs)
    _add_check_config(verbs)
    _add_generate_key(verbs)
    _add_generate_token(verbs)
    _add_compress(verbs)
    _add_verify(verbs)
    _add_mirror(verbs)
    _add_explain(verbs)
    _add_top(verbs)
    _add_doctor(verbs)
    return parser


Verbs = Any  # argparse keeps the type of add_subparsers() private


def _add_serve(verbs: Verbs) -> None:
    serve = verbs.add_parser("serve", help="serve the store over HTTP (the default)", allow_abbrev=False)
    _add_settings(serve)
    serve.set_defaults(run=_serve)


def _add_check_config(verbs: Verbs) -> None:
    check = verbs.add_parser(
        "check-config",
        help="print the effective configuration as TOML, or say what is wrong with it",
        allow_abbrev=False,
    )
    _add_settings(check)
    check.set_defaults(run=_check_config)


def _add_generate_key(verbs: Verbs) -> None:
    generate = verbs.add_parser("generate-key", help="make a key that signs narinfos", allow_abbrev=False)
    generate.add_argument(
        "name", metavar="NAME", help="what clients call the key, by custom HOST-1: cache.example.org-1"
    )
    generate.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="where the secret key goes (default: NAME.secret)"
    )
    generate.set_defaults(run=_generate_key)


def _add_generate_token(verbs: Verbs) -> None:
    generate = verbs.add_parser("generate-token", help="make a token that opens this cache", allow_abbrev=False)
    generate.add_argument("name", metavar="NAME", help="whose it is, for people: laptop")
    generate.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="add its hash to this token_file; otherwise it is printed"
    )
    generate.set_defaults(run=_generate_token)


def _add_compress(verbs: Verbs) -> None:
    compress = verbs.add_parser("compress", help="make compressed NARs ahead of the first download", allow_abbrev=False)
    which = compress.add_argument_group("which store paths")
    which.add_argument("paths", metavar="PATH", nargs="*", help="a store path, or a link to one such as ./result")
    which.add_argument("--closure", action="store_true", help="the closures of the paths as well")
    which.add_argument("--all", action="store_true", dest="everything", help="every valid path of the store")
    compress.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    compress.set_defaults(run=_compress, usage=compress.error)


def _add_verify(verbs: Verbs) -> None:
    check = verbs.add_parser(
        "verify", help="read every kept NAR again, remove what is rotten, list damaged store paths", allow_abbrev=False
    )
    check.add_argument("--json", action="store_true", dest="as_json", help="print a report that scripts can read")
    check.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    check.set_defaults(run=_verify)


def _add_mirror(verbs: Verbs) -> None:
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
    _add_upstream(mirror)
    mirror.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    mirror.set_defaults(run=_mirror, usage=mirror.error)


def _add_explain(verbs: Verbs) -> None:
    explain = verbs.add_parser(
        "explain", help="say where one store path would come from, and why it would or would not", allow_abbrev=False
    )
    explain.add_argument("path", metavar="HASH-OR-PATH", help="a hash part or a store path")
    _add_upstream(explain)
    explain.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    explain.set_defaults(run=_explain)


def _add_upstream(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--upstream",
        metavar="URL",
        action="append",
        help="ask this cache for what the store does not have; may be repeated; its key must be known",
    )


def _add_top(verbs: Verbs) -> None:
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


def _add_doctor(verbs: Verbs) -> None:
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


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    parser.add_argument(
        "-b", "--bind", metavar="ADDRESS", action="append", help="host:port or unix:/path; may be repeated"
    )
    parser.add_argument("-w", "--workers", metavar="N", type=int, help="number of processes")
    parser.add_argument(
        "--sign-key", metavar="FILE", action="append", dest="sign_key_paths", help="a secret key; may be repeated"
    )
    _add_upstream(parser)
    parser.add_argument("--priority", metavar="N", type=int, help="clients ask the cache with the smaller number first")
    parser.add_argument(
        "--log-level", choices=["error", "warn", "info", "debug"], help="the least severe messages to log"
    )
    parser.add_argument("--log-format", choices=["text", "json"], help="plain lines, or one JSON object a line")
    parser.add_argument(
        "--no-access-log", action="store_const", const=False, dest="access_log", help="do not log requests"
    )


_SETTINGS: Final = ("bind", "workers", "sign_key_paths", "priority", "log_level", "log_format", "access_log")


def _load(options: argparse.Namespace) -> tuple[Path | None, config.Config]:
    file = config.find_file(options.config, os.environ)
    # A verb need not have every option.
    given: dict[str, Any] = {name: value for name in _SETTINGS if (value := getattr(options, name, None)) is not None}
    if getattr(options, "upstream", None):
        given["upstream"] = [{"url": url} for url in options.upstream]
    return file, config.load(file, os.environ, given)


def _serve(options: argparse.Namespace) -> int:
    # What imports make stays: looking for garbage among it would be a tenth of the start. The supervisor ends this.
    gc.disable()
    # The web framework takes most of the time that the imports take; verbs that do not serve do without.
    from harmonia_py import serve  # noqa: PLC0415  # as said

    file, settings = _load(options)
    _set_up_log(settings)
    with _naming_the_place(options, file):
        scheme = "http" if settings.tls_cert_path is None else "https"
        listeners = listen.open_listeners(
            settings.addresses,
            os.environ,
            scheme,
            listen.Permissions(settings.socket_mode, settings.unix_socket_group),
        )
    return serve.serve(file, settings, listeners, lambda: _reload(options))


def _reload(options: argparse.Namespace) -> config.Config:
    settings = _load(options)[1]
    _set_up_log(settings)
    return settings


def _set_up_log(settings: config.Config) -> None:
    log_format.set_up(
        level=settings.log_level, json_lines=settings.log_format == "json", access_log=settings.access_log
    )


@contextmanager
def _naming_the_place(options: argparse.Namespace, file: Path | None) -> Iterator[None]:
    """Name where `bind` was set, when it is wrong."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{'command line' if options.bind else file or 'configuration'}: {error}") from None


def _check_config(options: argparse.Namespace) -> int:
    file, settings = _load(options)
    with _naming_the_place(options, file):
        for address in settings.addresses:
            listen.parse_address(address)
    keys.read_secret_keys(settings.key_files, os.environ)
    if settings.token_file is not None:
        tokens.read_tokens(Path(settings.token_file), os.environ)
    if settings.upstream:
        from harmonia_py import upstreams  # noqa: PLC0415  # as `serve`

        upstreams.check_upstreams(settings)
    print(f"# {file or 'no configuration file: these are the defaults'}")  # noqa: T201
    print(config.format_toml(settings), end="")  # noqa: T201
    return 0


def _compress(options: argparse.Namespace) -> int:
    from harmonia_py import keeping  # noqa: PLC0415  # `serve` does without progress bars

    if bool(options.paths) == options.everything:
        options.usage("name store paths, or --all")
    settings = _load(options)[1]
    return keeping.compress(settings, keeping.Wanted(options.paths, options.closure, options.everything))


def _verify(options: argparse.Namespace) -> int:
    from harmonia_py import keeping  # noqa: PLC0415  # as above

    return keeping.verify(_load(options)[1], as_json=options.as_json)


def _mirror(options: argparse.Namespace) -> int:
    from harmonia_py import mirroring  # noqa: PLC0415  # as above

    if not options.paths and options.store_paths is None:
        options.usage("name store paths, or --store-paths FILE")
    settings = _load(options)[1]
    return mirroring.mirror(settings, options.paths, closure=options.closure, store_paths=options.store_paths)


def _explain(options: argparse.Namespace) -> int:
    from harmonia_py import mirroring  # noqa: PLC0415  # as above

    return mirroring.explain(_load(options)[1], options.path)


def _top(options: argparse.Namespace) -> int:
    from harmonia_py import top  # noqa: PLC0415  # as above

    return top.top(
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
    return examine.examine(wanted, lambda: _load(options))


def _generate_key(options: argparse.Namespace) -> int:
    try:
        key = SecretKey.generate(options.name)
    except FormatError as error:
        raise ConfigError(f"{options.name!r}: {error}") from None
    if options.output is None and "/" in options.name:
        raise ConfigError(f"{options.name!r}: say with --output where the key goes")
    file = options.output or Path(f"{options.name}.secret")
    keys.write_secret_key(file, key)
    print(f"{file}: secret key, for sign_key_paths", file=sys.stderr)  # noqa: T201
    print(key.public_key)  # noqa: T201
    return 0


def _generate_token(options: argparse.Namespace) -> int:
    try:
        token, token_hash = TokenHash.generate(options.name)
    except FormatError as error:
        raise ConfigError(f"{options.name!r}: {error}") from None
    if options.output is not None:
        tokens.add_token(options.output, token_hash)
        print(f"{options.output}: has its hash; this is the only time that the token is shown", file=sys.stderr)  # noqa: T201
        print(token)  # noqa: T201
        return 0
    print("the token, shown this one time, and the line for token_file:", file=sys.stderr)  # noqa: T201
    print(f"{token}\n{token_hash}")  # noqa: T201
    return 0


def _prefix() -> str:
    # https://no-color.org
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return "\033[1;31merror:\033[0m" if colours else "error:"


if __name__ == "__main__":
    sys.exit(main())
