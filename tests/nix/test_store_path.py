import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import NAME_CHARACTERS, hash_parts, store_dirs, store_paths

from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import MAX_NAME_LENGTH, HashPart, StoreDir, StorePath, parse_name

HASH = "syd87l2rxw8cbsxmxl853h0r6pdwhwjr"
STORE_DIR = StoreDir.parse("/nix/store")


def test_a_store_path_is_a_hash_part_and_a_name() -> None:
    path = StorePath.parse(f"{HASH}-curl-7.82.0-bin")
    assert path.hash_part == HASH
    assert path.name == "curl-7.82.0-bin"
    assert not path.is_derivation
    assert StorePath.parse(f"{HASH}-curl.drv").is_derivation


@pytest.mark.parametrize("name", ["a", "0", "+-._?=", ".a", "..a", "...", "-", "a" * MAX_NAME_LENGTH, NAME_CHARACTERS])
def test_names_that_nix_allows_are_read(name: str) -> None:
    assert parse_name(name) == name
    assert StorePath.parse(f"{HASH}-{name}").name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".-",
        "..-",
        ".-a",
        "..-a",
        "a" * (MAX_NAME_LENGTH + 1),
        "a/b",
        "a b",
        "a\n",
        "é",
        "a%",
        "a!b",
        "a\0",
        "a:b",
    ],
)
def test_names_that_nix_refuses_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        parse_name(name)
    with pytest.raises(FormatError):
        StorePath.parse(f"{HASH}-{name}")


@pytest.mark.parametrize(
    "text", ["", HASH[:-1], HASH + "a", HASH.upper(), HASH[:-1] + "e", HASH[:-1] + "\n", HASH + "\n", "é" * 32]
)
def test_what_is_no_hash_part_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        HashPart.parse(text)
    with pytest.raises(FormatError):
        StorePath.parse(f"{text}-name")


@pytest.mark.parametrize(
    "text", [HASH, f"{HASH}-", f"{HASH}name", f"{HASH}_name", f"/nix/store/{HASH}-name", f"../{HASH}-name"]
)
def test_what_is_no_store_path_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        StorePath.parse(text)


@pytest.mark.parametrize("text", ["/nix/store", "/a", "/a b/é", "/...", "/.a/..b"])
def test_absolute_directories_are_store_directories(text: str) -> None:
    assert StoreDir.parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "nix/store",
        "/nix/store/",
        "//nix",
        "/nix//store",
        "/./nix",
        "/nix/..",
        "/nix/../store",
        "/nix\n",
        "/nix\0",
        "/\udcff",
    ],
)
def test_what_is_not_absolute_and_normalised_is_no_store_directory(text: str) -> None:
    with pytest.raises(FormatError):
        StoreDir.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        f"/nix/stor/{HASH}-name",
        f"/nix/store{HASH}-name",
        f"/nix/store//{HASH}-name",
        f"/nix/store/{HASH}-name/",
        f"/nix/store/{HASH}-name/bin",
        f"/nix/store/../store/{HASH}-name",
        f"{HASH}-name",
        "/nix/store/",
        "/nix/store",
        "",
    ],
)
def test_a_path_that_is_not_directly_in_the_store_directory_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        STORE_DIR.parse_path(text)


@given(store_dirs, store_paths)
def test_a_joined_path_is_read_back(store_dir: StoreDir, store_path: StorePath) -> None:
    assert store_dir.parse_path(store_dir.join(store_path)) == store_path


@given(hash_parts)
def test_a_hash_part_is_what_a_path_with_it_begins_with(hash_part: HashPart) -> None:
    assert StorePath.parse(f"{hash_part}-x").hash_part == hash_part


@given(st.text() | st.builds("{}-{}".format, hash_parts, st.text()))
def test_any_text_is_a_store_path_or_is_refused(text: str) -> None:
    try:
        path = StorePath.parse(text)
    except FormatError:
        return
    assert f"{path.hash_part}-{path.name}" == text
    assert set(path.name) <= set(NAME_CHARACTERS)
    assert 1 <= len(path.name) <= MAX_NAME_LENGTH


@given(st.text())
def test_any_text_is_a_store_directory_or_is_refused(text: str) -> None:
    try:
        StoreDir.parse("/" + text).encode()
    except FormatError:
        return
