"""Listings parsed: what we write is read, and any other bytes are a tree or a FormatError."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import File, Folder, Link, Tree, events

from harmonia_py.errors import FormatError
from harmonia_py.nix.listing import format_listing
from harmonia_py.web.pages.directory import Listed, ListedDirectory, ListedFile, ListedLink, parse_listing


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (File(b"hello"), ListedFile(5)),
        (Link(b"x"), ListedLink("x")),
        (Folder({}), ListedDirectory({})),
        (
            Folder({b"a": Folder({b"b": File(b"1", executable=True)}), b"c": Link(b"a/b")}),
            ListedDirectory({"a": ListedDirectory({"b": ListedFile(1, executable=True)}), "c": ListedLink("a/b")}),
        ),
    ],
)
def test_what_this_cache_writes_is_read(tree: Tree, expected: Listed) -> None:
    assert parse_listing(format_listing(events(tree))) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["version", "root", "type", "entries", "size", "target", "a", ".."]), inner)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_parse_or_raise_our_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        parse_listing(data)
