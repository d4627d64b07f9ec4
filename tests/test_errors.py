import ast
import builtins
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harmonia_py import errors
from harmonia_py.errors import HarmoniaError, describe_os_error, reason_of


def _tree(kind: type[HarmoniaError], indent: str = "") -> list[str]:
    """The classes below `kind`, drawn as the module's docstring draws them."""
    lines = []
    # A refinement that only one module raises and catches lives there.
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    for child in children:
        last = child is children[-1]
        lines += [f"{indent}{'└──' if last else '├──'} {child.__name__}"]
        lines += _tree(child, indent + ("    " if last else "│   "))
    return lines


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = [line[4:] for line in (errors.__doc__ or "").splitlines() if line.startswith("    ")]
    assert [_without_remark(line) for line in drawn] == ["HarmoniaError", *_tree(HarmoniaError)]


def _without_remark(line: str) -> str:
    """`line` up to the end of the class's name."""
    name = next(word for word in line.split() if word.isidentifier())
    return line[: line.index(name) + len(name)]


def test_every_error_says_what_it_means() -> None:
    of_its_own = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert len(of_its_own) > 20
    for kind in of_its_own:
        assert issubclass(kind, HarmoniaError)
        assert kind.__doc__


def test_what_the_system_says_is_told_in_words() -> None:
    """`[Errno 13] Permission denied: '/x'` is Python's text, and no help to a person."""
    assert describe_os_error(PermissionError(13, "Permission denied", "/x")) == "/x: Permission denied"
    assert describe_os_error(OSError(28, "No space left on device")) == "No space left on device"
    assert (
        describe_os_error(FileNotFoundError(2, "No such file or directory", b"/x")) == "/x: No such file or directory"
    )
    assert describe_os_error(TimeoutError("timed out")) == "timed out"
    assert describe_os_error(TimeoutError()) == "TimeoutError"


def test_a_reason_names_no_file_and_nothing_of_python() -> None:
    assert reason_of(PermissionError(13, "Permission denied", "/x")) == "Permission denied"
    assert reason_of(OSError("no such host")) == "no such host"
    assert reason_of(UnicodeDecodeError("ascii", b"\xff", 0, 1, "ordinal not in range(128)")) == "it is not text"
    assert reason_of(EOFError()) == "EOFError"


SOURCES: Final = Path(errors.__file__).parent
# What the system says comes as one of these; a `TimeoutError` has no text of its own.
OF_THE_SYSTEM: Final = {
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, OSError)
} - {"TimeoutError"}


def names(kinds: ast.expr | None) -> set[str]:
    if isinstance(kinds, ast.Tuple):
        return set().union(*map(names, kinds.elts))
    return {kinds.id} if isinstance(kinds, ast.Name) else set()


def raw_texts(tree: ast.AST) -> Iterator[int]:
    """The lines in which an error of the system is a part of a message as Python writes it."""
    for handler in ast.walk(tree):
        if isinstance(handler, ast.ExceptHandler) and names(handler.type) & OF_THE_SYSTEM:
            for node in ast.walk(handler):
                parts = [node.value] if isinstance(node, ast.FormattedValue) else []
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and ast.unparse(node.func.value) == "_log"
                ):
                    parts = node.args
                yield from (part.lineno for part in parts if isinstance(part, ast.Name) and part.id == handler.name)


def test_no_message_has_the_text_that_python_makes_of_an_error_of_the_system() -> None:
    """`oidc check` said `job.token: [Errno 2] No such file or directory: 'job.token'`."""
    found = [f"{file}:{line}" for file in SOURCES.rglob("*.py") for line in raw_texts(ast.parse(file.read_text()))]
    assert found == []
    raw = "try: ...\nexcept (OSError, EOFError) as error:\n  _log.error('%s', error)\n  raise X(f'{error}')"
    assert list(raw_texts(ast.parse(raw))) == [3, 4]
