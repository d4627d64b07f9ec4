"""The parser of a command line: help that fits the terminal, examples, and suggestions for typing errors."""

import argparse
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

# argparse's words for a value that is none of the choices, with quotes before Python 3.12 and without them since.
_NO_CHOICE: Final = re.compile(r"argument (.+?): invalid choice: (.+?) \(choose from (.+)\)")
_EXAMPLE_INDENT: Final = " " * 2
_PURPOSE_INDENT: Final = " " * 6


class HelpFormatter(argparse.HelpFormatter):
    """Paragraphs are filled to the width of the terminal; lines that begin with a space stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for is_prose, group in itertools.groupby(text.splitlines(), lambda line: line[:1].strip() != ""):
            part = list(group)
            # Hyphens are in options and names: no line ends behind one.
            lines += textwrap.wrap(" ".join(part), width, break_on_hyphens=False) if is_prose else part
        return textwrap.indent("\n".join(lines), indent)


class Parser(argparse.ArgumentParser):
    """The parser of the whole command line, of one verb, or of a verb below that.

    Attributes:
        examples: pairs of a command and what it is for.
    """

    def __init__(self, **settings: Any) -> None:
        defaults: dict[str, Any] = {"formatter_class": HelpFormatter, "allow_abbrev": False}
        super().__init__(**(defaults | settings))
        self.examples: tuple[tuple[str, str], ...] = ()

    def describe(self, text: str, *examples: tuple[str, str]) -> None:
        """Have `--help` say this before the arguments, and show the examples after them."""
        self.description = textwrap.dedent(text).strip("\n")
        self.examples = examples
        lines = [f"{_EXAMPLE_INDENT}{command}\n{_PURPOSE_INDENT}{purpose}" for command, purpose in examples]
        self.epilog = "\n".join(["examples:", *lines])

    def add_actions(self) -> "argparse._SubParsersAction[Parser]":
        """The parsers of the actions of this verb, of which the command line names one: `options.action`."""
        return self.add_subparsers(title="what to do", metavar="ACTION", dest="action", required=True)

    def error(self, message: str) -> NoReturn:
        """End with status 2, and with a suggestion for a typing error."""
        found = _NO_CHOICE.fullmatch(message)
        if found is not None:
            choices = [one.strip(" '\"") for one in found[3].split(",")]
            value = found[2].strip("'\"")
            hint = did_you_mean(value, choices) or f"; it is one of {', '.join(choices)}"
            message = f"argument {found[1]}: there is no {value!r}{hint}"
        super().error(message)

    def parse_known_args(  # type: ignore[override]  # argparse's overloads are for other kinds of namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """The options; an unknown one is an error of the innermost parser, whose usage is the one that helps."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            names = [name for action in self._actions for name in action.option_strings]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{did_you_mean(unknown[0], names)}")
        return options, unknown

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own says nothing of help that could not be written.
        (file or sys.stderr).write(message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing when nothing known is like `word`."""
    import difflib  # noqa: PLC0415  # for a typing error alone

    close = difflib.get_close_matches(word.partition("=")[0], list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def add_deadline(parser: argparse.ArgumentParser, seconds: float, when: str) -> None:
    """`--deadline`, of what empties a queue."""
    parser.add_argument(
        "--deadline",
        metavar="SECONDS",
        type=float,
        default=seconds,
        help=f"how long the rest may take {when}; {seconds:g} unless given",
    )
