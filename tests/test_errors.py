import inspect

from harmonia_py import errors
from harmonia_py.errors import HarmoniaError, describe_os_error


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
