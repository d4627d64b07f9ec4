"""Bars as a terminal shows them."""

import io

import pytest
from rich.console import Console

from harmonia_py.commands.shared.progress import progress_bar


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_bar_says_nothing_of_what_is_not_known_yet(width: int) -> None:
    """It began with `0/? bytes ?`, for as long as a server that was away was waited for."""
    shown = io.StringIO()
    progress = progress_bar(Console(file=shown, force_terminal=True, width=width, color_system=None))
    task = progress.add_task("looking what is missing", total=None)
    progress.console.print(progress)
    first = shown.getvalue()
    assert "looking what is missing" in first
    assert "?" not in first
    assert "bytes" not in first
    assert first.count("\n") == 1
    progress.update(task, total=1000 << 20, completed=999 << 20, description="pushing 10008 paths")
    progress.console.print(progress)
    (line,) = shown.getvalue().removeprefix(first).splitlines()
    assert "pushing 10008 paths" in line
    assert "999.0/1,000.0 MiB" in line
