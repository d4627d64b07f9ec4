"""Secret keys are read strictly, made once, and readable by nobody else."""

import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harmonia_py.config import key_files
from harmonia_py.config.settings import Config
from harmonia_py.config.storage_tables import Database
from harmonia_py.errors import ConfigError
from harmonia_py.nix.signing import SecretKey


def write(file: Path, key: SecretKey, mode: int = 0o600) -> Path:
    file.write_text(key.format() + "\n")
    file.chmod(mode)
    return file


@pytest.fixture
def key() -> SecretKey:
    return SecretKey.generate("cache.example-1")


def test_keys_come_in_the_order_of_their_files(tmp_path: Path) -> None:
    made = [SecretKey.generate(name) for name in ("b-1", "a-1")]
    files = [write(tmp_path / made_key.name, made_key) for made_key in made]
    assert key_files.read_secret_keys(files, {}) == made
    assert key_files.read_secret_keys([], {}) == []


def test_a_key_that_nix_writes_without_a_line_feed_is_read(tmp_path: Path, key: SecretKey) -> None:
    file = tmp_path / "key"
    file.write_text(key.format())
    file.chmod(0o600)
    assert key_files.read_secret_keys([file], {}) == [key]


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"name-1", b"name-1:AAAA", b"\xff\xfe", b"a" * 10_000, b"cache.example-1:" + b"A" * 86 + b"=="]
)
def test_a_file_that_holds_no_key_is_named_with_the_setting_and_its_contents_are_not_shown(
    tmp_path: Path, data: bytes
) -> None:
    file = tmp_path / "key"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        key_files.read_secret_keys([file], {})
    message = str(caught.value)
    assert message.startswith(f"{file}: sign_key_paths: not a secret key of Nix: ")
    assert "AAAA" not in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_named_with_the_setting(tmp_path: Path) -> None:
    for file, reason in ((tmp_path / "nowhere", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            key_files.read_secret_keys([file], {})
        assert str(caught.value) == f"{file}: sign_key_paths: {reason}"


def test_two_keys_of_one_name_are_refused_because_clients_could_not_tell_them_apart(tmp_path: Path) -> None:
    files = [write(tmp_path / name, SecretKey.generate("same-1")) for name in ("one", "two")]
    with pytest.raises(ConfigError, match="two: sign_key_paths: a second key named 'same-1'"):
        key_files.read_secret_keys(files, {})


def test_the_same_key_named_twice_counts_once(tmp_path: Path, key: SecretKey) -> None:
    """A file names it and the environment as well: nothing is wrong with that."""
    file = write(tmp_path / "key", key)
    assert key_files.read_secret_keys([file, file], {}) == [key]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_warned_of(
    tmp_path: Path, key: SecretKey, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "key", key, mode)
    with caplog.at_level(logging.WARNING):
        assert key_files.read_secret_keys([file], {}) == [key]
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: others may read this secret key; chmod 600 it"
    ]


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_that_nobody_else_may_read_is_not(
    tmp_path: Path, key: SecretKey, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    key_files.read_secret_keys([write(tmp_path / "key", key, mode)], {})
    assert caplog.records == []


def test_systemds_credentials_are_readable_by_design(
    tmp_path: Path, key: SecretKey, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "key", key, 0o440)
    key_files.read_secret_keys([file], {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert caplog.records == []
    key_files.read_secret_keys([file], {"CREDENTIALS_DIRECTORY": str(tmp_path / "elsewhere")})
    assert len(caplog.records) == 1


@pytest.mark.parametrize("environment", [{}, {"CREDENTIALS_DIRECTORY": "/run/credentials/other.service"}])
def test_root_reads_the_credentials_of_a_service_without_a_warning(environment: dict[str, str]) -> None:
    """`sudo harmonia-py key rotate` said `others may read this secret key; chmod 600 it` of a credential."""
    file = Path("/run/credentials/harmonia-py.service/key-encryption")
    assert key_files.is_credential(file, environment)
    assert not key_files.is_credential(Path("/run/keys/key-encryption"), environment)


def test_a_written_key_is_readable_by_its_owner_only_and_reads_back(tmp_path: Path, key: SecretKey) -> None:
    file = tmp_path / "new" / "key"
    before = os.umask(0)
    try:
        key_files.write_secret_key(file, key)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key_files.read_secret_keys([file], {}) == [key]
    assert [entry.name for entry in file.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("kind", ["file", "dangling link", "directory"])
def test_a_key_is_never_overwritten(tmp_path: Path, key: SecretKey, kind: str) -> None:
    file = tmp_path / "key"
    if kind == "file":
        file.write_text("precious")
    elif kind == "directory":
        file.mkdir()
    else:
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"/key: exists already; a key is never overwritten$"):
        key_files.write_secret_key(file, key)
    assert kind != "file" or file.read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_what_a_crash_left_behind_is_in_nobodys_way(tmp_path: Path, key: SecretKey) -> None:
    """A container has the same process id at every start, so a temporary file named after it alone would block."""
    (tmp_path / f".key.{os.getpid()}").write_text("half a k")
    key_files.write_secret_key(tmp_path / "key", key)
    assert key_files.read_secret_keys([tmp_path / "key"], {}) == [key]


def test_a_key_that_cannot_be_written_is_an_error_that_names_the_file(tmp_path: Path, key: SecretKey) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/key: cannot write the key: "):
        key_files.write_secret_key(tmp_path / "file" / "key", key)


def test_a_key_is_made_on_first_start_and_kept(tmp_path: Path) -> None:
    config = Config(state_directory=str(tmp_path / "state"))
    assert key_files.read_signing_keys(config, {}) == []
    assert not (tmp_path / "state").exists()
    first = key_files.read_signing_keys(config, {}, make=True)
    assert first[0].name.endswith("-1")
    for make in (False, True):
        assert key_files.read_signing_keys(config, {}, make=make) == first


def test_keys_that_are_named_and_no_others_sign(tmp_path: Path, key: SecretKey) -> None:
    file = write(tmp_path / "key", key)
    config = Config(sign_key_paths=[str(file)], state_directory=str(tmp_path / "state"))
    assert key_files.read_signing_keys(config, {}, make=True) == [key]
    assert not (tmp_path / "state").exists()


def test_where_signing_is_switched_off_no_key_is_made(tmp_path: Path) -> None:
    config = Config(sign=False, state_directory=str(tmp_path / "state"))
    assert key_files.read_signing_keys(config, {}, make=True) == []
    assert not (tmp_path / "state").exists()


def test_a_key_that_cannot_be_made_says_how_to_start_without_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = Config(state_directory=str(tmp_path / "file/state"))
    with pytest.raises(ConfigError, match="name a key in sign_key_paths, or set sign = false"):
        key_files.read_signing_keys(config, {}, make=True)


def test_daemons_that_start_at_once_use_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(key_files.make_key, [tmp_path / "secret-key"] * 32))
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret-key"]
    assert len(key_files.read_secret_keys([tmp_path / "secret-key"], {})) == 1


def test_a_password_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    config = Config(database=Database(url="postgresql://harmonia@db/harmonia", password_file=str(file)))
    assert key_files.read_database_password(Config(), {}) is None
    file.write_text("secret\n")
    file.chmod(0o600)
    assert key_files.read_database_password(config, {}) == "secret"
    for text in ("", "\n", "one\ntwo\n", "nul\0"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"database\.password_file: not one line with a password") as caught:
            key_files.read_database_password(config, {})
        assert not text.strip() or text not in str(caught.value)
