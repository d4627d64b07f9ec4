"""Write docs/reference from the code: settings, URLs, metrics, the command line, and the manual page.

usage: generate_reference.py [--check]

With `--check` nothing is written; the exit status says whether that would change anything.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import metrics_reference
import msgspec
import tomli_w

from harmonia_py import __version__, cli, config_tables
from harmonia_py.config import Config
from harmonia_py.web.routes import routes

FOLDER: Final = Path(__file__).parent.parent / "docs" / "reference"
_ABOUT: Final = "a Nix binary cache: serves the local Nix store over HTTP, signed"
_MADE: Final = "<!-- Made from the code by scripts/generate_reference.py: change it there. -->\n"

_SETTINGS: Final = """\
# Settings

What `harmonia.toml` may say, and what holds where it says nothing. Without a file all of these defaults hold, and a
signing key is made on first start. `harmonia-py check-config --config FILE` prints what would be in effect.

The file is the one that `--config` or `$CONFIG_FILE` names, else `settings.toml` where the daemon is started. The
command line goes before the environment, and that before the file, except that keys in `$SIGN_KEY_PATHS` are added to
those in the file.

"""

_URLS: Final = """\
All of them take GET and HEAD; `path` on `/metrics` is the name. What each of them takes and answers, with all statuses
and headers, is in [openapi.yaml](openapi.yaml), for programs and for whoever wants to know it exactly.

"""

# In the words of environ(7); the code that reads them is config_file.py, keys.py, listen.py and notify.py.
_ENVIRONMENT: Final = {
    "CONFIG_FILE": "the configuration file",
    "SIGN_KEY_PATHS": "files with secret keys, separated by spaces, besides those in the file; also SIGN_KEY_PATH",
    "NIX_STORE_DIR": "virtual_nix_store, where the file does not say it",
    "NIX_DAEMON_SOCKET_PATH": "daemon_socket, likewise",
    "STATE_DIRECTORY": "state_directory, likewise; else /var/lib/harmonia-py for root, for others what XDG says",
    "CACHE_DIRECTORY": "cache.directory, likewise; else /var/cache/harmonia-py for root, for others what XDG says",
    "CREDENTIALS_DIRECTORY": "where systemd puts secrets; files there are not complained of for their permissions",
    "RUST_LOG": "log_level, likewise, as Harmonia understands it",
    "LISTEN_FDS": "how many sockets systemd has passed, which go before `bind`; also LISTEN_PID",
    "NOTIFY_SOCKET": "where systemd is told of readiness, reloads and the end",
    "WATCHDOG_USEC": "how soon systemd wants to hear from it again; also WATCHDOG_PID",
    "NO_COLOR": "no colours, whatever the terminal",
}
_SIGNALS: Final = {
    "SIGTERM, SIGINT": "Stop. Transfers that run get `shutdown_timeout` seconds to finish.",
    "SIGHUP": "Read configuration, keys, tokens, certificates, upstreams' secrets again. No connection is dropped.",
}
_STATUSES: Final = {
    "0": "It did what was asked.",
    "1": "It did not, and standard error says why in one line.",
    "2": "The command line is wrong.",
}


def settings() -> str:
    """Return the page of settings: a table for the keys at the top, and one for each table."""
    parts = [_MADE, _SETTINGS, _struct(Config)]
    for field in msgspec.structs.fields(Config):
        table = _table_of(field.type)
        if table is not None:
            name = f"[[{field.name}]]" if "list[" in str(field.type) else f"[{field.name}]"
            what = (inspect.getdoc(table) or "").partition("\n")[0]
            parts += [f"\n## `{name}`\n\n{what}\n\n", _struct(table)]
    return "".join(parts)


def _struct(struct: type[msgspec.Struct]) -> str:
    said = _attributes(struct)
    lines = ["| key | value | default | what it says |\n|---|---|---|---|\n"]
    for field in msgspec.structs.fields(struct):
        if _table_of(field.type) is None:
            default = _default(field)
            lines.append(f"| `{field.encode_name}` | {_kind(field.type)} | {default} | {said[field.name]} |\n")
    return "".join(lines)


def _attributes(struct: type[msgspec.Struct]) -> dict[str, str]:
    """What the docstring says under `Attributes:`, by name."""
    text = (inspect.getdoc(struct) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): ((?:.+)(?:\n {6,}.+)*)", text, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", said).replace("|", r"\|") for name, said in found}


def _table_of(kind: Any) -> type[msgspec.Struct] | None:
    found = [one for one in vars(config_tables).values() if inspect.isclass(one) and issubclass(one, msgspec.Struct)]
    return next((one for one in found if one is not msgspec.Struct and _mentions(kind, one)), None)


def _mentions(kind: Any, struct: type[msgspec.Struct]) -> bool:
    return kind is struct or any(_mentions(inner, struct) for inner in getattr(kind, "__args__", ()))


def _default(field: Any) -> str:
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return "needed"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "" if default is None else f"`{tomli_w.dumps({'x': default}).strip().removeprefix('x = ')}`"


def _kind(kind: Any) -> str:
    return _words(msgspec.inspect.type_info(kind))


def _words(info: Any) -> str:
    match info:
        case msgspec.inspect.UnionType():
            return " or ".join(_words(one) for one in info.types if not isinstance(one, msgspec.inspect.NoneType))
        case msgspec.inspect.ListType():
            return f"list of {_words(info.item_type)}s"
        case msgspec.inspect.LiteralType():
            return ", ".join(f'`"{value}"`' for value in info.values)
        case msgspec.inspect.BoolType():
            return "`true`, `false`"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return _number("whole number" if isinstance(info, msgspec.inspect.IntType) else "number", info)
        case msgspec.inspect.StrType():
            return "text"
    raise AssertionError(f"no words for {info}")


def _number(name: str, info: Any) -> str:
    lower = f"over {info.gt:g}" if info.gt is not None else f"{info.ge}" if info.ge is not None else ""
    bounds = [one for one in (lower, f"{info.le}" if info.le is not None else "") if one]
    return f"{name}, {' to '.join(bounds)}" if bounds else name


def urls() -> str:
    """Return the page of URLs: each with the first line of its handler's docstring."""
    lines = [_MADE, "# URLs\n\n", _URLS]
    lines.append("| URL | name | what it answers |\n|---|---|---|\n")
    for route in routes():
        said = (inspect.getdoc(route.handler) or "").partition("\n")[0]
        path = re.sub(r"\{(\w+)[^}]*\}", lambda found: f"<{found[1].replace('_', ' ')}>", route.path)
        lines.append(f"| `{path}` | `{route.kwargs['name']}` | {said} |\n")
    return "".join(lines)


def _verbs() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Each verb, what it does, and its parser."""
    (verbs,) = (one for one in cli._parser()._actions if isinstance(one, argparse._SubParsersAction))
    for listed in verbs._choices_actions:
        yield listed.dest, listed.help or "", verbs.choices[listed.dest]


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each argument as it is written, and what it means."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = "" if action.nargs == 0 else f" {action.metavar or '|'.join(map(str, action.choices or ()))}".rstrip()
        written = [f"{name}{value}" for name in action.option_strings] or [value.strip()]
        yield ", ".join(written), action.help or ""


def _usage(verb: str, parser: argparse.ArgumentParser) -> str:
    optional = any(action.option_strings for action in parser._actions[1:])
    positional = [
        {"*": f"[{action.metavar}…]", "?": f"[{action.metavar}]"}.get(str(action.nargs), f"{action.metavar}")
        for action in parser._actions
        if not action.option_strings
    ]
    return " ".join([f"harmonia-py {verb}", *(["[OPTION…]"] if optional else []), *positional])


def command_line() -> str:
    """Return the page of the command line."""
    parts = [_MADE, "# Command line\n\nWithout a verb it serves. The manual page `harmonia-py(1)` says the same.\n"]
    for verb, said, parser in _verbs():
        parts.append(f"\n## `{_usage(verb, parser)}`\n\n{_sentence(said)}\n\n")
        rows = "".join(
            f"| `{written.replace('|', chr(92) + '|')}` | {what} |\n" for written, what in _arguments(parser)
        )
        parts.append(f"| argument | what it means |\n|---|---|\n{rows}" if rows else "")
    for title, table in (("Environment", _ENVIRONMENT), ("Signals", _SIGNALS), ("Exit status", _STATUSES)):
        rows = "".join(f"| `{name}` | {what} |\n" for name, what in table.items())
        parts.append(f"\n## {title}\n\n| | |\n|---|---|\n{rows}")
    return "".join(parts)


def _row(written: str, what: str) -> str:
    return "| `{}` | {} |\n".format(written.replace("|", r"\|"), what)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def manual_page() -> str:
    """Return harmonia-py(1), in the macros of man(7)."""
    lines = [
        '.\\" Made from the code by scripts/generate_reference.py: change it there.',
        f'.TH HARMONIA-PY 1 "" "harmonia-py {__version__}"',
        *(
            ".SH NAME",
            r"harmonia-py \- a Nix binary cache: serves the local Nix store over HTTP, signed",
            ".SH SYNOPSIS",
        ),
    ]
    verbs = list(_verbs())
    for verb, _, parser in verbs:
        lines += [rf"\fB{_roff(_usage(verb, parser))}\fR", ".br"]
    lines += [".SH DESCRIPTION", *map(_roff, cli._DESCRIPTION.partition("\n\n")[2].splitlines()), ".SH VERBS"]
    for verb, said, parser in verbs:
        lines += [f".SS {_roff(_usage(verb, parser))}", _roff(_sentence(said))]
        for written, what in _arguments(parser):
            lines += [".TP", rf"\fB{_roff(written)}\fR", _roff(what)]
    for title, table in (("ENVIRONMENT", _ENVIRONMENT), ("SIGNALS", _SIGNALS), ("EXIT STATUS", _STATUSES)):
        lines.append(f".SH {title}")
        for name, what in table.items():
            lines += [".TP", rf"\fB{_roff(name)}\fR", _roff(what.replace("`", ""))]
    lines += [".SH SEE ALSO", _roff("nix.conf(5), nix-daemon(8), systemd.socket(5)")]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    # A line that begins with one of these is a command.
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


PAGES: Final[dict[str, Callable[[], str]]] = {
    "settings.md": settings,
    "urls.md": urls,
    "metrics.md": metrics_reference.text,
    "command-line.md": command_line,
    "harmonia-py.1": manual_page,
}


def main() -> int:
    """Write the pages, or say which of them that would change."""
    stale = []
    for name, make in PAGES.items():
        file = FOLDER / name
        text = make()
        if not file.exists() or file.read_text() != text:
            stale.append(name)
            if sys.argv[1:] != ["--check"]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
    if stale and sys.argv[1:] == ["--check"]:
        print(f"docs/reference: not current: {', '.join(stale)}; run scripts/generate_reference.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
