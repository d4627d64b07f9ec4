"""Print the oldest dependencies that pyproject.toml allows, one a line, as pip wants them: `aiohttp==3.14.4`.

usage: floors.py [--tools]

With `--tools` the locked versions of what the tests need besides: constraints for the rest. What a dependency needs
itself is in neither: pip chooses it.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from pip._vendor.packaging.requirements import Requirement

PROJECT: Final = Path(__file__).parent.parent
# They look at the source, and run nothing of it.
_NOT_FOR_TESTS: Final = {"coverage", "import-linter", "mypy", "ruff"}


def floors(project: Path) -> Iterator[str]:
    """Yield each dependency that this Python needs, those of the extras too, at its lower bound.

    Raises:
        SystemExit: a dependency has none, so nothing says what is supported.
    """
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    for text in chain(table["dependencies"], *table["optional-dependencies"].values()):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            bounds = [one.version for one in requirement.specifier if one.operator == ">="]
            if len(bounds) != 1:
                raise SystemExit(f"pyproject.toml: {text}: has no lower bound")
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            yield f"{requirement.name}{extras}=={bounds[0]}"


def tools(project: Path) -> Iterator[str]:
    """Yield what `dependency-groups.dev` names, at the version that is locked."""
    groups = tomllib.loads((project / "pyproject.toml").read_text())["dependency-groups"]
    wanted = {Requirement(text).name for text in groups["dev"]} - _NOT_FOR_TESTS
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;]+)", (project / "requirements-dev.lock").read_text(), re.MULTILINE
    ):
        if name in wanted:
            yield f"{name}=={version}"


def main() -> int:
    """Print what was asked for."""
    match sys.argv[1:]:
        case []:
            print("\n".join(floors(PROJECT)))
        case ["--tools"]:
            print("\n".join(tools(PROJECT)))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
