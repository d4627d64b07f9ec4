"""The beginning of the program: the hook of a build runs before the command line is imported, because builds wait."""

import os
import sys
from collections.abc import Sequence

_HOOK = ["hook", "add"]
_QUEUE = "--queue"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status as `cli.main` has it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:2] == _HOOK and _write_down(given[2:]):
        return 0
    from harmonia_py import cli  # noqa: PLC0415  # it imports what a hook does without

    return cli.main(given)


def _write_down(words: list[str]) -> bool:
    """Do what `hook add` does; False for what it has to say something about, or for other options than its own."""
    from harmonia_py.client.queue_entry import queue_directory, write_entry  # noqa: PLC0415

    directory = queue_directory("queue", os.environ)
    if len(words) > 1 and words[0] == _QUEUE:
        directory, words = words[1], words[2:]
    paths = words or os.environ.get("OUT_PATHS", "").split()
    if not paths or not directory or any(word.startswith("-") for word in words):
        return False
    try:
        write_entry(directory, paths)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
