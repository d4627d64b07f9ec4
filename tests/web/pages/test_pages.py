import re
import subprocess
import sys

import pytest
from jinja2 import UndefinedError

from harmonia_py.web.pages.templates import DirectoryEntry, content_security_policy, format_size, render

HOSTILE = '<script>alert("1")</script>\'&{{ 7 * 7 }}'


def directory(**changes: object) -> str:
    values: dict[str, object] = {
        "root": "../",
        "site": "cache.example",
        "title": "lib",
        "path": [("top", "../"), ("lib", None)],
        "parent": "../",
        "entries": [DirectoryEntry(name="a", href="a", kind="regular", size=1)],
        "omitted": 0,
        "hash_part": None,
    }
    return render("directory.html", **values | changes).decode()


def test_every_value_is_escaped() -> None:
    entry = DirectoryEntry(name=HOSTILE, href=HOSTILE, kind="symlink", target=HOSTILE)
    page = directory(site=HOSTILE, title=HOSTILE, path=[(HOSTILE, HOSTILE), (HOSTILE, None)], entries=[entry])
    assert "alert(" in page
    assert page.count("<script>") == 1  # our own
    assert 'alert("' not in page
    assert "{{ 7 * 7 }}" in page


def test_a_template_that_is_not_given_a_value_fails_rather_than_leaving_a_gap() -> None:
    with pytest.raises(UndefinedError):
        render("directory.html", root="./", site="x")


def test_a_page_names_no_other_host() -> None:
    page = directory()
    # What identifies the vocabulary of a picture is no address to go to.
    assert set(re.findall(r"https?://[^\s'\")]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"[\"'(=]//", page)
    assert not re.search(r"@import|url\(|\bsrc=|<link(?! rel=\"icon\" href=\"data:)", page)


def test_nothing_in_a_page_needs_what_its_policy_forbids() -> None:
    page = directory()
    assert not re.search(r"\sstyle=|\son\w+=|javascript:", page)
    policy = content_security_policy()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_what_is_left_out_is_counted() -> None:
    page = directory(omitted=1500)
    assert "1,501 entries" in page
    assert "and 1,500 more" in page


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        (102_400, "100 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (2**63 - 1, "8.0 EiB"),
    ],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


def test_the_daemon_starts_without_what_only_pages_need() -> None:
    code = "import sys, harmonia_py.cli, harmonia_py.web.server; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
