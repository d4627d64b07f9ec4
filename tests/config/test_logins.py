"""The logins of a user: which server a name means, which token it is shown, and what is said of a file that is none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.config.logins import CacheUrl, Logins, parse_server
from harmonia_py.errors import ConfigError

TEAM: Final = CacheName("team")
LOGINS: Final = Logins({"https://one.example.org": "t1", "https://two.example.org/nix": "t2"})


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("team", {}, CacheUrl("https://two.example.org/nix", TEAM, "t2")),
        ("one.example.org/team", {}, CacheUrl("https://one.example.org", TEAM, "t1")),
        ("two.example.org/nix/team", {}, CacheUrl("https://two.example.org/nix", TEAM, "t2")),
        ("https://one.example.org/", {}, CacheUrl("https://one.example.org", DEFAULT, "t1")),
        ("http://other.example.org/team", {}, CacheUrl("http://other.example.org", TEAM, None)),
        ("team", {"HARMONIA_PY_TOKEN": "t3"}, CacheUrl("https://two.example.org/nix", TEAM, "t3")),
        ("team", {"HARMONIA_PY_TOKEN_FILE": "FILE"}, CacheUrl("https://two.example.org/nix", TEAM, "t4")),
    ],
)
def test_a_cache_is_found_by_its_name_alone_or_with_its_host(
    tmp_path: Path, text: str, environment: Mapping[str, str], expected: CacheUrl
) -> None:
    (tmp_path / "token").write_text("t4\n")
    named = {name: value.replace("FILE", str(tmp_path / "token")) for name, value in environment.items()}
    assert LOGINS.find(text, named) == expected


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("three.example.org/team", {}, "not logged in to three.example.org: `harmonia-py login URL` first"),
        ("a b", {}, "a b: "),
        ("https://u:secret@one.example.org/team", {}, "a token does not go into the URL"),
        ("ftp://one.example.org/team", {}, "not the URL of a server"),
        ("https://one.example.org:x/team", {}, "not the URL of a server"),
        ("https://one.example.org/team?token=x", {}, "not the URL of a server"),
        ("team", {"HARMONIA_PY_TOKEN_FILE": "/nowhere"}, "HARMONIA_PY_TOKEN_FILE: "),
    ],
)
def test_what_names_no_cache_is_said_to_name_none(text: str, environment: Mapping[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        LOGINS.find(text, environment)
    assert words in str(raised.value)
    assert "secret" not in str(raised.value)


def test_the_url_of_a_server_ends_without_a_slash() -> None:
    assert parse_server("https://two.example.org/nix/") == "https://two.example.org/nix"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff", "not text"),
        (b"servers = ", "(at end of document)"),
        (b'servers = ["https://one.example.org"]', "no file of logins: remove it, and log in again"),
        (b'[servers]\n"https://one.example.org" = "token"', "no file of logins: remove it, and log in again"),
    ],
)
def test_a_file_that_has_no_logins_is_not_taken_for_one_and_stays(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "logins.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as raised:
        Logins.read(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert words in str(raised.value)
    assert file.read_bytes() == data


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/dev/null/logins\.toml: "):
        LOGINS.write(Path("/dev/null/logins.toml"))
    (tmp_path / "logins.toml").mkdir()
    with pytest.raises(ConfigError, match=r"logins\.toml: Is a directory"):
        LOGINS.write(tmp_path / "logins.toml")
    assert [file.name for file in tmp_path.iterdir()] == ["logins.toml"]
    with pytest.raises(ConfigError, match=r"logins\.toml: Is a directory"):
        Logins.read(tmp_path / "logins.toml")
