"""The file that signs requests to a bucket."""

from pathlib import Path

import pytest

from harmonia_py.config.s3_credentials import read_s3_credentials
from harmonia_py.errors import ConfigError


def credentials(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    file = tmp_path / "credentials"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_the_first_section_of_a_file_as_amazons_tools_write_it_counts(tmp_path: Path) -> None:
    text = "# ours\n[nix]\naws_access_key_id = AKIA1\naws_secret_access_key=a/b+c%=\n[other]\naws_access_key_id=AKIA2\n"
    assert read_s3_credentials(credentials(tmp_path, text), {}) == ("AKIA1", "a/b+c%=", None)
    text = "[default]\naws_access_key_id=A\naws_secret_access_key=B\naws_session_token=C\n"
    assert read_s3_credentials(credentials(tmp_path, text), {}) == ("A", "B", "C")


def test_a_file_that_others_may_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "[default]\naws_access_key_id=A\naws_secret_access_key=B\n"
    read_s3_credentials(credentials(tmp_path, text, 0o644), {})
    assert "others may read this secret key" in caplog.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "aws_access_key_id is missing"),
        ("[default]\naws_access_key_id=SECRET\n", "aws_secret_access_key is missing"),
        ("aws_access_key_id=SECRET", "not a file of credentials"),
        ("[default]\nSECRET\n", "not a file of credentials"),
    ],
)
def test_a_file_without_a_key_is_refused_and_not_shown(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_s3_credentials(credentials(tmp_path, text), {})
    assert problem in str(refused.value)
    assert "storage.credentials_file" in str(refused.value)
    assert "SECRET" not in str(refused.value)
