"""What `use` adds to nix.conf and netrc comes out again to the byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.config.netrc import add_entry, remove_entry
from harmonia_py.config.nix_conf import Block, add_block, has_block, remove_block, settings_of, without_blocks

TEAM = Block("https://cache.example.org/team", [("extra-substituters", "https://cache.example.org/team")])
OTHER = Block("https://cache.example.org/team-2", [("extra-substituters", "https://cache.example.org/team-2")])

LINES = st.lists(st.sampled_from(["max-jobs = 4", "# a comment", "", "extra-substituters = https://other"]))
TEXTS = st.none() | LINES.map("\n".join) | LINES.map(lambda lines: "".join(f"{line}\n" for line in lines))


@given(TEXTS)
def test_what_is_added_comes_out_again_to_the_byte(text: str | None) -> None:
    added = add_block(text, TEAM)
    assert added.startswith(text or "")
    assert has_block(added, TEAM.name)
    assert not has_block(text, TEAM.name)
    assert remove_block(added, TEAM.name) == text


@given(TEXTS, st.booleans())
def test_two_caches_come_out_in_any_order(text: str | None, first: bool) -> None:  # noqa: FBT001  # drawn
    both = add_block(add_block(text, TEAM), OTHER)
    order = (TEAM, OTHER) if first else (OTHER, TEAM)
    left: str | None = both
    for block in order:
        assert has_block(left, block.name)
        left = remove_block(left, block.name)
    assert (left or "").rstrip("\n") == (text or "").rstrip("\n")


def test_adding_twice_is_adding_once() -> None:
    once = add_block("max-jobs = 4\n", TEAM)
    assert add_block(once, TEAM) == once
    assert settings_of(once) == {"max-jobs": "4", "extra-substituters": TEAM.name}
    assert settings_of(without_blocks(once)) == {"max-jobs": "4"}


def test_a_comment_is_no_setting() -> None:
    assert settings_of("# netrc-file = /x\nnetrc-file = /y # z\n") == {"netrc-file": "/y"}


@pytest.mark.parametrize(
    "before", [None, "machine other login a password b\n", "machine example.org login me password x\n"]
)
def test_an_entry_of_a_netrc_comes_first_and_out_again(before: str | None) -> None:
    """curl takes the first entry of a host: one of another program would hide ours."""
    added = add_entry(before, "example.org", "hpy_1_secret")
    assert added.startswith("machine example.org login harmonia-py password hpy_1_secret\n")
    assert add_entry(added, "example.org", "hpy_2_new").count("harmonia-py") == 1
    assert remove_entry(added, "example.org") == before
