"""The file with tokens is read with care, and written without harm to what is in it."""

import logging
import os
import stat
from pathlib import Path

import pytest

from harmonia_py.cache.tokens import TokenHash
from harmonia_py.config.token_file import add_token, read_tokens
from harmonia_py.errors import ConfigError


def test_what_was_added_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "tokens"
    token, line = TokenHash.generate("laptop")
    other, other_line = TokenHash.generate("ci")
    add_token(file, line)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(file.read_text() + "# no line feed at the end")
    add_token(file, other_line)
    tokens = read_tokens(file, {})
    assert (tokens.find(token), tokens.find(other), len(tokens)) == ("laptop", "ci", 2)
    assert caplog.records == []


def test_a_name_is_given_once(tmp_path: Path) -> None:
    """Of two tokens named alike it could not be said which line to take out, and the log did not tell them apart."""
    file = tmp_path / "tokens"
    add_token(file, TokenHash.generate("laptop")[1])
    add_token(file, TokenHash.generate("lap")[1])
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="has a token named 'laptop'; take its line out first"):
        add_token(file, TokenHash.generate("laptop")[1])
    assert file.read_bytes() == before


def test_a_file_that_others_may_read_is_warned_of_but_not_systemds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens"
    add_token(file, TokenHash.generate("laptop")[1])
    file.chmod(0o640)
    with caplog.at_level(logging.WARNING):
        read_tokens(file, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        assert caplog.messages == []
        read_tokens(file, {})
    assert caplog.messages == [f"{file}: others may read these hashes of tokens; chmod 600 it"]


def test_a_file_without_tokens_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "tokens"
    file.touch(0o600)
    with caplog.at_level(logging.WARNING):
        assert len(read_tokens(file, {})) == 0
    assert "nobody may read" in caplog.text


@pytest.mark.parametrize(
    ("content", "what"), [(None, "No such file or directory"), (b"\xff", "not text"), (b"x\n", "line 1: ")]
)
def test_what_is_wrong_is_one_line_that_names_the_file_and_the_key(
    tmp_path: Path, content: bytes | None, what: str
) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_tokens(file, os.environ)
    assert str(caught.value).startswith(f"{file}: token_file: {what}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        add_token(tmp_path, TokenHash.generate("laptop")[1])
