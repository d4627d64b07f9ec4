"""`nix.conf`: the block of lines that `use` adds to it, which can be taken out again to the byte.

Source: "nix.conf" in the Nix manual; `src/libutil/configuration.cc` of Nix. Settings that begin with `extra-` add up,
so a block at the end takes nothing from what is there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

_SETTING: Final = re.compile(r"^[ \t]*([A-Za-z0-9-]+)[ \t]*=[ \t]*([^#\n]*)", re.MULTILINE)
_BLOCK: Final = re.compile(r"^# harmonia-py: (\S+) begins.*\n(?:.*\n)*?# harmonia-py: \1 ends\n?", re.MULTILINE)


class Block(Struct, frozen=True):
    """The lines that belong to one cache.

    Attributes:
        name: of the cache, or its URL: what its first and last line say.
        settings: pairs of a setting and its value.
    """

    name: str
    settings: Sequence[tuple[str, str]]

    def lines(self) -> Sequence[str]:
        """The settings, as they are written."""
        return [f"{name} = {value}" for name, value in self.settings]


def add_block(text: str | None, block: Block) -> str:
    """The text of the file with the block at its end; one of this name that was there is taken out.

    Args:
        text: None for a file that is not there.
        block: what to add.
    """
    text = remove_block(text, block.name)
    if text is None:
        before, state = "", ", in a new file"
    elif text and not text.endswith("\n"):
        before, state = text + "\n", ", after a line without an end"
    else:
        before, state = text, ""
    begin, end = f"# harmonia-py: {block.name} begins{state}", f"# harmonia-py: {block.name} ends"
    return before + "".join(f"{line}\n" for line in (begin, *block.lines(), end))


def remove_block(text: str | None, name: str) -> str | None:
    """The text without the block of this name, as it was before that was added; None when there was no file."""
    if text is None:
        return None
    quoted = re.escape(name)
    pattern = rf"^# harmonia-py: {quoted} begins(?P<state>|, [a-z ]+)\n(?:.*\n)*?# harmonia-py: {quoted} ends\n?"
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        return text
    before, after = text[: found.start()], text[found.end() :]
    if found["state"] == ", after a line without an end" and not after:
        before = before.removesuffix("\n")
    return None if found["state"] == ", in a new file" and not before + after else before + after


def without_blocks(text: str | None) -> str:
    """The text without any block of ours."""
    return _BLOCK.sub("", text or "")


def has_block(text: str | None, name: str) -> bool:
    """Whether there is a block of this name."""
    return remove_block(text, name) != text


def settings_of(text: str | None) -> Mapping[str, str]:
    """The settings of a file, of each the last value. Files that it includes are not read."""
    return {name: value.strip() for name, value in _SETTING.findall(text or "")}
