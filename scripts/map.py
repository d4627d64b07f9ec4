"""Print the modules of harmonia_py, or of single packages in it, each with the first line of its docstring.

python scripts/map.py catalog web/fast     # or make map ARGS="catalog web/fast"
"""

import ast
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parent.parent / "harmonia_py"


def main(packages: list[str]) -> int:
    """Print the packages that are named, or all; return the exit status."""
    for folder in [_PACKAGE / package for package in packages] or [_PACKAGE]:
        if not (folder / "__init__.py").is_file():
            print(f"map: {folder.relative_to(_PACKAGE)}: no such package", file=sys.stderr)
            return 1
        for line in _lines(folder):
            print(line)
    return 0


def _lines(folder: Path) -> Iterator[str]:
    """The docstring of a package, its modules, then the packages in it."""
    yield f"\n{folder.relative_to(_PACKAGE.parent)}/"
    yield from (f"  {line}".rstrip() for line in _docstring(folder / "__init__.py").splitlines())
    modules = sorted(module for module in folder.glob("*.py") if module.name != "__init__.py")
    if modules:
        yield ""
    width = max((len(module.stem) for module in modules), default=0)
    for module in modules:
        yield f"  {module.stem:{width}}  {_docstring(module).splitlines()[0]}"
    for package in sorted(folder.glob("*/__init__.py")):
        yield from _lines(package.parent)


def _docstring(module: Path) -> str:
    return ast.get_docstring(ast.parse(module.read_text())) or "-"


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `make map | head` ends quietly
    sys.exit(main(sys.argv[1:]))
