from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from strategies import hashes

from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import DIGEST_SIZES, Hash

ABC = Hash.of(b"abc")
BASE16 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
BASE32 = "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s"
BASE64 = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("nix")) as lab:
        yield lab


@pytest.mark.parametrize(
    "text",
    [f"sha256:{BASE16}", f"sha256:{BASE16.upper()}", f"sha256:{BASE32}", f"sha256:{BASE64}", f"sha256-{BASE64}"],
)
def test_every_notation_of_nix_is_read(text: str) -> None:
    assert Hash.parse(text) == ABC
    assert Hash.parse(text, "sha256") == ABC


@pytest.mark.parametrize("text", [BASE16, BASE32, BASE64])
def test_a_bare_digest_needs_an_algorithm(text: str) -> None:
    assert Hash.parse(text, "sha256") == ABC
    with pytest.raises(FormatError):
        Hash.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256:",
        "sha256-",
        f"sha256:{BASE16[:-1]}",
        f"sha256:{BASE16}0",
        f"sha256:{BASE32}\n",
        f" sha256:{BASE32}",
        f"SHA256:{BASE32}",
        f"sha1:{BASE32}",
        f"blake7:{BASE32}",
        f"sha256-{BASE32}",
        f"sha256:z{BASE32[1:]}",
        f"sha256-{BASE64[:-1]}",
        f"sha256-{BASE64[:-2]}1=",
        f"sha256:sha256:{BASE32}",
        "sha256:" + "é" * 52,
        "sha256:" + "\ud800" * 52,
    ],
)
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Hash.parse(text)


def test_an_algorithm_other_than_the_one_expected_is_refused() -> None:
    with pytest.raises(FormatError):
        Hash.parse("md5:900150983cd24fb0d6963f7d28e17f72", "sha256")


@given(hashes())
def test_what_is_formatted_is_read_back(value: Hash) -> None:
    assert Hash.parse(str(value)) == value
    assert Hash.parse(value.sri) == value
    assert Hash.parse(f"{value.algorithm}:{value.base16}") == value
    assert Hash.parse(value.nix32, value.algorithm) == value


@given(st.text() | st.from_regex(r"(md5|sha1|sha256|sha512)[:-][0-9A-Za-z+/]{0,130}={0,2}", fullmatch=True))
def test_any_text_is_a_hash_or_is_refused(text: str) -> None:
    try:
        value = Hash.parse(text)
    except FormatError:
        return
    assert len(value.digest) == DIGEST_SIZES[value.algorithm]


@pytest.mark.parametrize("algorithm", sorted(DIGEST_SIZES))
def test_notations_are_those_of_nix(nix: Lab, algorithm: str) -> None:
    value = Hash(algorithm, bytes(range(7, 7 + DIGEST_SIZES[algorithm])))
    assert nix.nix("hash", "to-base16", str(value)).strip() == value.base16
    assert nix.nix("hash", "to-base32", value.sri).strip() == value.nix32
    assert nix.nix("hash", "to-sri", "--type", algorithm, value.base16).strip() == value.sri


def test_the_hash_of_bytes_is_that_of_nix(nix: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    assert nix.nix("hash", "file", "--base32", str(tmp_path / "file")).strip() == Hash.of(b"hello").nix32
