"""Tokens are known by their hashes alone."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.cache.tokens import MAX_TOKENS, TokenHash, Tokens
from harmonia_py.errors import FormatError


def test_a_generated_token_is_found_by_its_line_and_no_two_are_the_same() -> None:
    token, line = TokenHash.generate("laptop")
    other, _ = TokenHash.generate("laptop")
    assert token != other
    assert len(token) >= 43  # 256 bits
    assert token not in str(line)
    tokens = Tokens.parse(f"# whose\n\n  {line}\nb:sha256:{'0' * 64}\n")
    assert len(tokens) == 2
    assert tokens.find(token) == "laptop"
    assert tokens.find(other) is None


def test_the_hash_is_what_sha256sum_says() -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    line = TokenHash.parse(f"ci:sha256:{digest}")
    assert str(line) == f"ci:sha256:{digest}"
    assert Tokens([line]).find("secret") == "ci"
    assert Tokens([line]).find("secret\n") is None


@pytest.mark.parametrize(
    "line",
    [
        *("laptop", "laptop:", ":sha256:" + "0" * 64, "a b:sha256:" + "0" * 64, "laptop:sha256:00", "laptop:token"),
        *("laptop:sha1:" + "0" * 40, "laptop:md5:" + "0" * 32, "x" * 65 + ":sha256:" + "0" * 64),
    ],
)
def test_a_line_that_is_none_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(FormatError, match=r"^line 2: "):
        Tokens.parse(f"# one\n{line}\n")


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        tokens = Tokens.parse(text)
    except FormatError:
        return
    assert tokens.find(text) is None


@given(st.text(st.characters(exclude_categories=()), max_size=600))
def test_no_token_opens_a_cache_without_tokens(token: str) -> None:
    assert Tokens([]).find(token.encode("utf-8", "replace").decode()) is None


def test_the_number_of_tokens_is_bounded() -> None:
    lines = [f"a:sha256:{number:064x}" for number in range(MAX_TOKENS + 1)]
    assert len(Tokens.parse("\n".join(lines[:-1]))) == MAX_TOKENS
    with pytest.raises(FormatError, match="more than"):
        Tokens.parse("\n".join(lines))
