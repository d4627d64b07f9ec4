"""`server.toml` of Attic, of which an import reads where the database and the files are."""

from pathlib import Path
from typing import Final

import pytest

from harmonia_py.attic.server_config import ServerConfig
from harmonia_py.errors import ConfigError

LOCAL: Final = '[database]\nurl = "sqlite:///x.db"\n[storage]\ntype = "local"\npath = "/srv"\n'
DAY: Final = 86_400


def read(directory: Path, text: str | bytes) -> ServerConfig:
    file = directory / "server.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ServerConfig.read(file, {})


def test_a_bucket_is_opened_as_attic_opens_it_and_its_secret_is_not_shown(tmp_path: Path) -> None:
    storage = '[storage]\ntype = "s3"\nregion = "r"\nbucket = "b"\nendpoint = "http://127.0.0.1:9000"\n'
    keys = '[storage.credentials]\naccess_key_id = "id"\nsecret_access_key = "secret-1"\n'
    config = read(tmp_path, f'[database]\nurl = "sqlite:///x.db"\n{storage}{keys}')
    assert config.directory is None
    assert config.bucket == {
        "endpoint": "http://127.0.0.1:9000",
        "access_key_id": "id",
        "secret_access_key": "secret-1",
        "client_options": {"allow_http": True},
    }
    assert "secret-1" not in repr(config)


@pytest.mark.parametrize(
    ("period", "seconds"),
    [("6 months", 6 * 2_630_016), ("1week 2days", 9 * DAY), ("0s", None), ("soon", None), ("3 blinks", None)],
)
def test_the_time_of_its_collection_is_that_of_caches_without_one(
    tmp_path: Path, period: str, seconds: int | None
) -> None:
    config = read(tmp_path, f'{LOCAL}[garbage-collection]\ndefault-retention-period = "{period}"\n')
    assert config.retention_seconds == seconds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff", "invalid start byte"),
        ("[", "(at end of document)"),
        ("", "not the configuration of atticd: "),
        (LOCAL.replace("path", "way"), "not the configuration of atticd: 'path' is missing"),
        ("storage = 1\n" + LOCAL[: LOCAL.index("[storage]")], "atticd: a setting is of another kind"),
        ("database = 1\n", "atticd: a setting is of another kind"),
    ],
)
def test_what_is_none_is_said_to_be_none_with_its_name(tmp_path: Path, text: str | bytes, words: str) -> None:
    """A setting of another kind was said to be missing, by the words of Python."""
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'server.toml'}: ")
    assert words in str(raised.value)
