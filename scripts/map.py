"""Print the modules of the package, or of one room of it, each with the first line of its docstring.

python scripts/map.py catalog web/fast     # or make map ARGS="catalog web/fast"
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).parent.parent / "harmonia_py"


def main(rooms: list[str]) -> int:
    """Print the rooms that are named, or all; return the exit status."""
    for folder in [_PACKAGE / room for room in rooms] or [_PACKAGE]:
        if not (folder / "__init__.py").is_file():
            print(f"map: {folder.relative_to(_PACKAGE)}: no such room", file=sys.stderr)
            return 1
        for line in _lines(folder):
            print(line)
    return 0


def _lines(folder: Path) -> Iterator[str]:
    """The docstring of a room, its modules, then the rooms in it."""
    yield f"\n{folder.relative_to(_PACKAGE.parent)}/"
    yield from (f"  {line}".rstrip() for line in _docstring(folder / "__init__.py").splitlines())
    modules = sorted(module for module in folder.glob("*.py") if module.name != "__init__.py")
    if modules:
        yield ""
    width = max((len(module.stem) for module in modules), default=0)
    for module in modules:
        yield f"  {module.stem:{width}}  {_docstring(module).splitlines()[0]}"
    for room in sorted(folder.glob("*/__init__.py")):
        yield from _lines(room.parent)


def _docstring(module: Path) -> str:
    return ast.get_docstring(ast.parse(module.read_text())) or "-"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
