"""Store paths as people type them."""

import lzma
from pathlib import Path
from typing import Final

import pytest

from harmonia_py.commands.shared.path_arguments import parse_hash_part, parse_store_path, parse_url, read_hash_parts
from harmonia_py.errors import ConfigError, FormatError
from harmonia_py.nix.store_path import StoreDir

HASH_PART: Final = "0123456789abcdfghijklmnpqrsvwxyz"
STORE_DIR: Final = StoreDir("/nix/store")


@pytest.mark.parametrize(
    "text",
    [HASH_PART, f"{HASH_PART}-name", f"/nix/store/{HASH_PART}-name", f"/other/store/{HASH_PART}-name/bin/program"],
)
def test_a_path_is_named_as_one_likes(text: str) -> None:
    assert parse_hash_part(text, None) == HASH_PART


@pytest.mark.parametrize(
    ("url", "base_url", "cache"),
    [
        (f"http://host/{HASH_PART}.narinfo", None, None),
        (f"http://host:5000/team/{HASH_PART}.narinfo", None, "team"),
        (f"http://host/team/{HASH_PART}.ls", None, "team"),
        (f"http://user:secret@host/team/push/{HASH_PART}.narinfo?x=y", None, "team"),
        (f"http://host/team/push/run-7/{HASH_PART}.narinfo", None, "team"),
        (f"http://host/push/{HASH_PART}.narinfo", None, None),
        (f"https://host/nix/team/{HASH_PART}.narinfo", "https://host/nix/", "team"),
        (f"https://host/nix/{HASH_PART}.narinfo", "https://host/nix", None),
        (f"http://host/team/nar/{HASH_PART}-{'1' * 52}.nar.zst", None, "team"),
        (f"http://host/nar/{'1' * 52}.nar?hash={HASH_PART}", None, None),
    ],
)
def test_a_url_names_a_path_and_its_cache(url: str, base_url: str | None, cache: str | None) -> None:
    assert parse_url(url, base_url) == (cache, HASH_PART)


@pytest.mark.parametrize(
    "url", ["http://host/", "http://host/nix-cache-info", "http://host/a/b/x.narinfo", "http://host/nar/x", "://"]
)
def test_a_url_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(FormatError):
        parse_url(url, None)


@pytest.mark.parametrize("store_dir", [None, STORE_DIR])
def test_a_link_to_a_path_names_it(tmp_path: Path, store_dir: StoreDir | None) -> None:
    (tmp_path / "result").symlink_to(f"/nix/store/{HASH_PART}-name/bin")
    assert parse_hash_part(f"{tmp_path}/result", store_dir) == HASH_PART
    assert parse_store_path(f"{tmp_path}/result", store_dir) == f"{HASH_PART}-name"
    with pytest.raises(FormatError, match="does not lead to"):
        parse_hash_part(str(tmp_path), store_dir)


def test_a_path_in_full_is_not_looked_for_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand of them took a second, for links that none of them is."""
    monkeypatch.setattr("os.path.realpath", lambda _: pytest.fail("a link is looked for"))
    assert parse_store_path(f"{STORE_DIR}/{HASH_PART}-name/bin", STORE_DIR) == f"{HASH_PART}-name"


def test_a_path_of_another_store_is_refused_where_the_store_is_known() -> None:
    with pytest.raises(FormatError, match="a path in /nix/store"):
        parse_store_path(f"/other/store/{HASH_PART}-name", STORE_DIR)


def test_a_list_is_read_as_it_is_or_packed(tmp_path: Path) -> None:
    data = f"/nix/store/{HASH_PART}-name\n\n".encode()
    (tmp_path / "paths").write_bytes(data)
    (tmp_path / "paths.xz").write_bytes(lzma.compress(data))
    for name in ("paths", "paths.xz"):
        assert read_hash_parts(tmp_path / name, STORE_DIR) == {HASH_PART}


@pytest.mark.parametrize("data", [b"\xff\xfe", b"nothing\n"])
def test_what_is_no_list_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "paths").write_bytes(data)
    with pytest.raises((ConfigError, FormatError)):
        read_hash_parts(tmp_path / "paths", STORE_DIR)
    with pytest.raises(ConfigError):
        read_hash_parts(tmp_path / "absent", STORE_DIR)


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"paths\.xz: No such file or directory"):
        read_hash_parts(tmp_path / "paths.xz", STORE_DIR)
