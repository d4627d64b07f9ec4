"""Check that the built documentation fetches nothing from elsewhere when it is read.

usage: check_site.py DIRECTORY
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

# Attributes whose value a browser fetches by itself; a link that a reader may follow is none of them.
_FETCHED: Final = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}
_NOT_FETCHED: Final = {"canonical", "next", "prev", "alternate", "edit"}
_CSS: Final = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")]+)")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and _NOT_FETCHED & set((values.get("rel") or "").split()):
            return
        for name, value in attrs:
            if (tag, name) in _FETCHED and value is not None and re.match(r"(https?:)?//", value):
                self.found.append(value)


def elsewhere(directory: Path) -> list[str]:
    """What a browser would fetch from another place, each with the file that wants it."""
    found = []
    for file in sorted(directory.rglob("*")):
        if file.suffix == ".html":
            page = _Page()
            page.feed(file.read_text())
            found += [f"{file.relative_to(directory)}: {url}" for url in page.found]
        elif file.suffix == ".css":
            found += [f"{file.relative_to(directory)}: {url}" for url in _CSS.findall(file.read_text())]
    return found


def main() -> int:
    """Print what would be fetched; the exit status says whether there is any."""
    directory = Path(sys.argv[1])
    if not (directory / "search" / "search_index.json").is_file():
        print(f"{directory}: has no index to search in", file=sys.stderr)
        return 1
    found = elsewhere(directory)
    for line in found:
        print(f"fetched from elsewhere: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
