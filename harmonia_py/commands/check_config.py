"""`harmonia-py check-config`: the settings that would be in effect, or their errors."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from harmonia_py.commands.shared.options import add_settings, load_file
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.config import file as config_file
from harmonia_py.config import key_files, token_file
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError
from harmonia_py.server import listen
from harmonia_py.server.certificate import Certificate
from harmonia_py.wiring.attic_tokens import attic_tokens
from harmonia_py.wiring.parts import check_libraries

_OF_SYSTEMD: Final = "; systemd puts it there when the service starts, for root to see: --no-credentials leaves it out"


def add_arguments(parser: Parser) -> None:
    """The options of `serve`, and those of the checks."""
    parser.describe(
        """
        Read the configuration, the environment and these options as `serve` would, and print what would be in effect,
        with every default. What would keep the server from starting is said, all of it at once, with where it was set;
        the exit status is 1 then. Nothing is written and nothing is served.""",
        ("harmonia-py check-config -c harmonia.toml", "check a file, and see what it leaves to the defaults"),
        ("harmonia-py check-config -c new.toml --quiet && mv new.toml harmonia.toml", "use a file if it is right"),
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but what is wrong")
    parser.add_argument(
        "--no-files",
        action="store_true",
        help="do not look at the files, groups and directories that it names, as on another machine than the server's",
    )
    parser.add_argument(
        "--no-credentials",
        action="store_true",
        help=f"do not look at files below {key_files.CREDENTIALS}, which systemd shows to a service and not to its "
        "ExecReload=",
    )
    add_settings(parser)


def run(options: argparse.Namespace) -> None:
    """Print it as TOML."""
    file, settings = load_file(options)
    place = str(file or "configuration")
    steps = [
        *_addresses(settings, "command line" if options.bind else place),
        *([] if options.no_files else _machine(settings, place, credentials=not options.no_credentials)),
    ]
    problems = [problem for step in steps if (problem := _problem_of(step)) is not None]
    if problems:
        raise ConfigError("\n".join(problems))
    if not options.no_files:
        for warning in _directories_not_ours(settings):
            print(f"warning: {warning}", file=sys.stderr)
    if not options.quiet:
        print(f"# {file or 'no configuration file: these are the defaults'}")
        print(config_file.format_toml(settings), end="")


class Step(NamedTuple):
    """Something that `serve` would do, which raises ConfigError where it cannot; `place` is where that was set."""

    do: Callable[[], object]
    place: str | None = None


def _problem_of(step: Step) -> str | None:
    try:
        step.do()
    except ConfigError as error:
        text = str(error) if step.place is None else f"{step.place}: {error}"
        # The first word of such an error is the file.
        return text + (_OF_SYSTEMD if text.startswith(f"{key_files.CREDENTIALS}/") else "")
    return None


def _addresses(settings: Config, place: str) -> Iterator[Step]:
    for address in settings.addresses:
        yield Step(partial(listen.parse_address, address), place)


def _machine(settings: Config, place: str, *, credentials: bool) -> Iterator[Step]:
    """The needs of a server on this machine. The message for a named file says which setting names it."""

    def is_shown(*files: str | Path | None) -> bool:
        return all(file is not None and (credentials or not _is_credential(file)) for file in files)

    certificate, key = settings.tls_cert_path, settings.tls_key_path
    if settings.unix_socket_group is not None:
        yield Step(partial(listen.find_group, settings.unix_socket_group), place)
    if certificate is not None and key is not None and is_shown(certificate, key):
        yield Step(partial(Certificate, Path(certificate), Path(key)))
    generated = settings.generated_key_file
    named = settings.key_files if generated is None or not generated.exists() else [generated]
    yield from _secret_keys([file for file in named if is_shown(file)])
    if is_shown(settings.key_encryption_file):
        yield Step(partial(key_files.read_key_encryption, settings, os.environ))
    if settings.token_file is not None and is_shown(settings.token_file):
        yield Step(partial(token_file.read_tokens, Path(settings.token_file), os.environ))
    yield from _other_machines(settings, place, is_shown)
    if is_shown(*settings.attic.key_files.values()):
        yield Step(partial(attic_tokens, settings, os.environ))
    yield Step(partial(check_libraries, settings), place)
    if settings.upstream:
        yield from _mirror(settings, place)
    for name, directory in _directories(settings):
        yield Step(partial(_refuse_what_is_no_directory, name, directory), place)


def _mirror(settings: Config, place: str) -> Iterator[Step]:
    # Imported here: it loads the web framework, which takes longer than all the rest.
    from harmonia_py.wiring import upstreams  # noqa: PLC0415  # as said

    for upstream in settings.upstream:
        yield Step(partial(upstreams.place_of, upstream), place)


def _other_machines(settings: Config, place: str, is_shown: Callable[..., bool]) -> Iterator[Step]:
    """The needs of a server to ask a database, a bucket and issuers of identities."""
    if is_shown(settings.database.password_file):
        yield Step(partial(key_files.read_database_password, settings, os.environ))
    if settings.storage.url is not None:
        from harmonia_py.wiring import bucket  # noqa: PLC0415  # no other configuration needs it

        yield Step(bucket.check_installed, place)
        if is_shown(settings.storage.credentials_file or "."):
            yield Step(partial(bucket.s3_settings, settings))
    if settings.oidc and is_shown(*(table.ca_file for table in settings.oidc.values() if table.ca_file is not None)):
        yield Step(partial(_check_issuers, settings), place)


def _check_issuers(settings: Config) -> None:
    from harmonia_py.wiring.oidc import check_issuers  # noqa: PLC0415  # as above

    check_issuers(settings)


def _is_credential(file: str | Path) -> bool:
    return Path(os.path.normpath(file)).is_relative_to(key_files.CREDENTIALS)


def _secret_keys(files: Sequence[Path]) -> Iterator[Step]:
    """Each file by itself, and then those that can be read together: no two keys may have one name."""
    readable: list[Path] = []

    def read(file: Path) -> None:
        key_files.read_secret_keys([file], os.environ)
        readable.append(file)

    for file in files:
        yield Step(partial(read, file))
    # Their permissions have been complained of: as if all of them were credentials.
    yield Step(partial(key_files.read_secret_keys, readable, {"CREDENTIALS_DIRECTORY": "/"}))


def _directories(settings: Config) -> Iterator[tuple[str, Path]]:
    for name, directory in (
        ("state_directory", settings.state_directory),
        ("cache.directory", settings.cache.directory),
        ("mirror.directory", settings.mirror.directory),
        ("storage.hot_directory", settings.storage.hot_directory),
    ):
        if directory is not None:
            yield name, Path(directory)


def _refuse_what_is_no_directory(name: str, directory: Path) -> None:
    existing = _deepest_existing(directory)
    if not existing.is_dir():
        raise ConfigError(f"{name}: {directory}: {existing} is not a directory")


def _directories_not_ours(settings: Config) -> Iterator[str]:
    """No error: the server may run as another user."""
    for name, directory in _directories(settings):
        existing = _deepest_existing(directory)
        if not os.access(existing, os.W_OK | os.X_OK):
            yield f"{name}: {directory}: this user may not write to {existing}"


def _deepest_existing(path: Path) -> Path:
    """The part of `path` that exists; the rest would be made."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if os.path.lexists(one))
