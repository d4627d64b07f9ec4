"""Write docs/reference from the code: settings, URLs, metrics, the command line, and the manual page.

usage: generate_reference.py [--check]

With `--check` nothing is written; the exit status says whether that would change anything.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import metrics_reference
import msgspec
import tomli_w
from verbs import Verb, every_verb

import completions
from harmonia_py import __version__
from harmonia_py.config.settings import Config
from harmonia_py.web.routes import routes

PROJECT: Final = Path(__file__).parent.parent
_ABOUT: Final = "a Nix binary cache: serves the local Nix store over HTTP, signed"
_MADE: Final = "<!-- Made from the code by scripts/generate_reference.py: change it there. -->\n"

_SETTINGS: Final = """\
# Settings

What `harmonia.toml` may say, and what holds where it says nothing. Without a file all of these defaults hold, and a
signing key is made on first start. `harmonia-py check-config --config FILE` prints what would be in effect.

The file is the one that `--config` or `$CONFIG_FILE` names, else `settings.toml` where the daemon is started, else,
for root without `$STATE_DIRECTORY`, `/etc/harmonia-py/settings.toml`, which the units take. The
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
    return "".join([_MADE, _SETTINGS, _struct(Config), *_tables(Config, "")])


def _tables(struct: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    """The tables in a table, each followed by those in it."""
    for field in msgspec.structs.fields(struct):
        table = _table_of(field.type)
        if table is not None:
            place = f"{prefix}{field.name}" + (".NAME" if "dict[" in str(field.type) else "")
            name = f"[[{place}]]" if "list[" in str(field.type) else f"[{place}]"
            what = (inspect.getdoc(table) or "").partition("\n")[0]
            yield f"\n## `{name}`\n\n{what}\n\n{_struct(table)}"
            yield from _tables(table, f"{place}.")


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
    """The table that a setting is, or that it has many of."""
    if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
        return kind
    return next((table for inner in getattr(kind, "__args__", ()) if (table := _table_of(inner))), None)


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
        case msgspec.inspect.ListType() | msgspec.inspect.DictType():
            return _words_of_many(info)
        case msgspec.inspect.LiteralType():
            return ", ".join(f'`"{value}"`' for value in info.values)
        case msgspec.inspect.BoolType():
            return "`true`, `false`"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return _number("whole number" if isinstance(info, msgspec.inspect.IntType) else "number", info)
        case msgspec.inspect.StrType():
            return "text"
    raise AssertionError(f"no words for {info}")


def _words_of_many(info: Any) -> str:
    is_table = isinstance(info, msgspec.inspect.DictType)
    return f"table of {_words(info.value_type)}" if is_table else f"list of {_words(info.item_type)}s"


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
        lines.append(f"| `{path}` | `{route.name}` | {said} |\n")
    return "".join(lines)


def _arguments(verb: Verb) -> Iterator[tuple[str, str]]:
    """Each argument as it is written, and what it means."""
    for argument in verb.arguments:
        yield argument.metavar, argument.help
    for option in verb.options:
        if "--help" not in option.names:
            value = "" if option.metavar is None else f" {'|'.join(option.choices) or option.metavar}"
            yield ", ".join(f"{name}{value}" for name in option.names), option.help


def _usage(verb: Verb) -> str:
    words = ["harmonia-py", *verb.words]
    return " ".join(
        [*words, *(["[OPTION…]"] if len(verb.options) > 1 else []), *(argument.usage for argument in verb.arguments)]
    )


def command_line() -> str:
    """Return the page of the command line."""
    parts = [_MADE, "# Command line\n\nWithout a verb it serves. The manual page `harmonia-py(1)` says the same.\n"]
    for verb in list(every_verb())[1:]:
        parts.append(f"\n## `{_usage(verb)}`\n\n{verb.description or _sentence(verb.help)}\n\n")
        rows = "".join(_row(written, what) for written, what in _arguments(verb))
        parts.append(f"| argument | what it means |\n|---|---|\n{rows}" if rows else "")
        if verb.examples:
            parts.append("\n```console\n")
            parts += [f"# {purpose}\n$ {command}\n" for command, purpose in verb.examples]
            parts.append("```\n")
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
    top, *verbs = every_verb()
    for verb in verbs:
        lines += [rf"\fB{_roff(_usage(verb))}\fR", ".br"]
    lines.append(".SH DESCRIPTION")
    lines += _roff_paragraphs(top.description.partition("\n\n")[2])
    lines.append(".SH VERBS")
    for verb in verbs:
        lines += [f".SS {_roff(_usage(verb))}", *_roff_paragraphs(verb.description or _sentence(verb.help))]
        for written, what in _arguments(verb):
            lines += [".TP", rf"\fB{_roff(written)}\fR", _roff(what)]
        for index, (command, purpose) in enumerate(verb.examples):
            lines += [*([".PP", "Examples:"] if index == 0 else []), ".TP", rf"\fB{_roff(command)}\fR", _roff(purpose)]
    for title, table in (("ENVIRONMENT", _ENVIRONMENT), ("SIGNALS", _SIGNALS), ("EXIT STATUS", _STATUSES)):
        lines.append(f".SH {title}")
        for name, what in table.items():
            lines += [".TP", rf"\fB{_roff(name)}\fR", _roff(what.replace("`", ""))]
    lines += [".SH SEE ALSO", _roff("nix.conf(5), nix-daemon(8), systemd.socket(5)")]
    return "\n".join(lines) + "\n"


def _roff_paragraphs(text: str) -> list[str]:
    return "\n.PP\n".join("\n".join(map(_roff, part.splitlines())) for part in text.split("\n\n")).splitlines()


def _roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    # A line that begins with one of these is a command.
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


PAGES: Final[dict[str, Callable[[], str]]] = {
    "docs/reference/settings.md": settings,
    "docs/reference/urls.md": urls,
    "docs/reference/metrics.md": metrics_reference.text,
    "docs/reference/command-line.md": command_line,
    "docs/reference/harmonia-py.1": manual_page,
    "completions/harmonia-py": completions.bash,
    "completions/_harmonia-py": completions.zsh,
    "completions/harmonia-py.fish": completions.fish,
}


def main() -> int:
    """Write the files, or say which of them that would change."""
    stale = []
    for name, make in PAGES.items():
        file = PROJECT / name
        text = make()
        if not file.exists() or file.read_text() != text:
            stale.append(name)
            if sys.argv[1:] != ["--check"]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
    if stale and sys.argv[1:] == ["--check"]:
        print(f"not current: {', '.join(stale)}; run scripts/generate_reference.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
