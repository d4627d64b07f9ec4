"""The verbs of the command line as values: what the reference, the manual page and the completions are made from."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harmonia_py import cli
from harmonia_py.commands.shared.parser import Parser


@dataclass(frozen=True)
class Option:
    """An option: its names, what it means, what its value is called if it has one, and which values there are."""

    names: tuple[str, ...]
    help: str
    metavar: str | None
    choices: tuple[str, ...]
    repeats: bool


@dataclass(frozen=True)
class Argument:
    """What stands by itself: what it is called, what it means, whether it may be left out, and whether it repeats."""

    metavar: str
    help: str
    is_optional: bool
    repeats: bool

    @property
    def usage(self) -> str:
        """As a usage line has it."""
        text = f"{self.metavar}…" if self.repeats else self.metavar
        return f"[{text}]" if self.is_optional else text


@dataclass(frozen=True)
class Verb:
    """A verb, by the words that name it: two for a verb below a verb, none for the command line itself."""

    words: tuple[str, ...]
    help: str
    description: str
    examples: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]


def every_verb(parser: Parser | None = None, words: tuple[str, ...] = (), said: str = "") -> Iterator[Verb]:
    """Yield every verb of the parser, first the command line itself."""
    parser = parser or cli.make_parser()
    options, arguments = tuple(_options(parser)), tuple(_arguments(parser))
    yield Verb(words, said, parser.description or "", parser.examples, options, arguments)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {listed.dest: listed.help or "" for listed in action._choices_actions}
            for name, inner in action.choices.items():
                yield from every_verb(inner, (*words, name), helps.get(name, ""))


def below(every: Sequence[Verb], verb: Verb) -> list[Verb]:
    """Return the verbs that are one word longer."""
    return [one for one in every if one.words and one.words[:-1] == verb.words]


def _options(parser: Parser) -> Iterator[Option]:
    for action in parser._actions:
        if action.option_strings:
            choices = tuple(map(str, action.choices or ()))
            metavar = None if action.nargs == 0 else str(action.metavar or action.dest.upper())
            repeats = isinstance(action, argparse._AppendAction)
            yield Option(tuple(action.option_strings), action.help or "", metavar, choices, repeats)


def _arguments(parser: Parser) -> Iterator[Argument]:
    for action in parser._actions:
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):
            yield Argument(
                str(action.metavar), action.help or "", action.nargs in {"*", "?"}, action.nargs in {"*", "+"}
            )
