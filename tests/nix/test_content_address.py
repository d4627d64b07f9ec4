import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from strategies import content_addresses, names, store_paths, unknown_content_addresses

from harmonia_py.errors import FormatError
from harmonia_py.nix.content_address import ContentAddress, Method, UnknownContentAddress, parse_content_address
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StoreDir, StorePath

STORE_DIR = StoreDir.parse("/nix/store")
TEXT_FOO = StorePath.parse("310sbjjj0kkf5zpszk81r054z76hsrww-foo")
# The NAR of a file with the contents "hello".
HELLO_NAR = bytes.fromhex(
    "0d000000000000006e69782d617263686976652d31000000010000000000000028000000000000000400000000000000"
    "74797065000000000700000000000000726567756c6172000800000000000000636f6e74656e74730500000000000000"
    "68656c6c6f00000001000000000000002900000000000000"
)


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("nix")) as lab:
        yield lab


@pytest.mark.parametrize(
    ("ca", "expected"),
    [
        (ContentAddress(Method.TEXT, Hash.of(b"hello")), TEXT_FOO),
        (ContentAddress(Method.NAR, Hash.of(HELLO_NAR)), "hld17g0w73klvxw3dcgsld0in8w0lg81-foo"),
        (
            ContentAddress(Method.NAR, Hash("sha1", hashlib.sha1(HELLO_NAR, usedforsecurity=False).digest())),
            "fwndxw7v4v8v5s0kgxizpbmg383hp6sr-foo",
        ),
        (ContentAddress(Method.FLAT, Hash.of(b"hello")), "mpj4vila1vjy7hlgaiiwannrfjpfxcfm-foo"),
    ],
)
def test_known_contents_have_their_known_store_path(ca: ContentAddress, expected: str) -> None:
    assert ca.store_path("foo", [], STORE_DIR) == expected
    assert ca.proves(StorePath.parse(expected), [], STORE_DIR)
    assert not ca.proves(StorePath.parse(expected), [TEXT_FOO, StorePath.parse(expected)], STORE_DIR)
    assert not ca.proves(StorePath.parse(expected), [], StoreDir.parse("/gnu/store"))
    assert not ca.proves(StorePath.parse(f"{expected}-2"), [], STORE_DIR)


def test_a_text_file_may_refer_to_others_in_any_order() -> None:
    ca = ContentAddress(Method.TEXT, Hash.of(STORE_DIR.join(TEXT_FOO).encode()))
    assert ca.store_path("bar", [TEXT_FOO, TEXT_FOO], STORE_DIR) == "4xp339mx25rwz5q3rxvxjx4bd7j964v0-bar"


def test_a_nar_may_refer_to_itself() -> None:
    ca = ContentAddress(Method.NAR, Hash.of(b"(...)"))
    assert str(ca) == "fixed:r:sha256:1lr187v6dck1rjh2j6svpikcfz53wyl3qrlcbb405zlh13x0khhh"
    foo = StorePath.parse("n5wkd9frr45pa74if5gpz9j7mifg27fh-foo")
    bar = StorePath.parse("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar")
    assert ca.store_path("foo", [bar], STORE_DIR, to_itself=True) == foo
    assert ca.proves(foo, [foo, bar], STORE_DIR)
    assert not ca.proves(foo, [bar], STORE_DIR)
    assert not ca.proves(foo, [foo], STORE_DIR)


@pytest.mark.parametrize("method", [Method.FLAT, Method.GIT])
def test_flat_and_git_contents_have_no_references(method: Method) -> None:
    ca = ContentAddress(method, Hash.of(b"hello"))
    with pytest.raises(FormatError):
        ca.store_path("bar", [TEXT_FOO], STORE_DIR)
    with pytest.raises(FormatError):
        ca.store_path("bar", [], STORE_DIR, to_itself=True)


def test_a_name_that_nix_refuses_makes_no_store_path() -> None:
    with pytest.raises(FormatError):
        ContentAddress(Method.TEXT, Hash.of(b"hello")).store_path("a/b", [], STORE_DIR)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text:",
        "fixed:",
        "fixed:r:",
        "path:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
        "sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
        "text:sha1:kpcd173cq987hw957sx6m0868wv3x6d9",
        "text:r:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
        "fixed:x:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
        "fixed:sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
        "fixed:r:sha256:kpcd173cq987hw957sx6m0868wv3x6d9",
    ],
)
def test_what_is_no_content_address_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        ContentAddress.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "fixed:r:blake3:0n1dz60yyk9j2vr35qgvs1fsdnl7d5kkwcnpgjysmgcjcg1qs5zh",
        "text:blake3:0n1dz60yyk9j2vr35qgvs1fsdnl7d5kkwcnpgjysmgcjcg1qs5zh",
        "fixed:tree:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
        "path:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
    ],
)
def test_an_address_of_an_unknown_kind_keeps_its_text(text: str) -> None:
    ca = parse_content_address(text)
    assert ca == UnknownContentAddress(text)
    assert str(ca) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "sha256:1b8m", "fixed:sha256", "fixed:r:sha256", "fixed:r:x", "fixed:git:x", "fixed:r:blake3:"),
        *("fixed:r:sha256:0", "fixed:sha512:0", "text:sha1:kpcd173cq987hw957sx6m0868wv3x6d9"),
        *("fixed:r:blake3:a b", "fixed:r:blake3:a\nSig: x", "fixed:r:blake3:a:b", "a:b:c:d:e", "fixed:r:blake3:é"),
        "fixed:r:blake3:" + "0" * 513,
    ],
)
def test_an_address_of_a_known_kind_has_to_parse_and_one_of_another_to_fit_a_line(text: str) -> None:
    with pytest.raises(FormatError):
        parse_content_address(text)


@given(content_addresses | unknown_content_addresses)
def test_what_is_formatted_is_read_back(ca: ContentAddress | UnknownContentAddress) -> None:
    assert parse_content_address(str(ca)) == ca


@given(st.text() | st.builds("{}{}".format, st.sampled_from([method.value for method in Method]), st.text()))
def test_any_text_is_a_content_address_or_is_refused(text: str) -> None:
    try:
        ca = parse_content_address(text)
    except FormatError:
        return
    assert parse_content_address(str(ca)) == ca


@given(content_addresses, names, st.lists(store_paths, max_size=3))
def test_a_path_made_of_an_address_is_proved_by_it_and_by_no_other(
    ca: ContentAddress, name: str, references: list[StorePath]
) -> None:
    if ca.method not in (Method.TEXT, Method.NAR) or ca.hash.algorithm != "sha256":
        references = []
    path = ca.store_path(name, references, STORE_DIR)
    assert ca.proves(path, reversed(references), STORE_DIR)
    other = ContentAddress(ca.method, Hash(ca.hash.algorithm, bytes([ca.hash.digest[0] ^ 1]) + ca.hash.digest[1:]))
    assert not other.proves(path, references, STORE_DIR)


def _ca_of(nix: Lab, path: StorePath) -> ContentAddress:
    (described,) = nix.path_infos(nix.full(path)).values()
    return ContentAddress.parse(described["ca"])


@pytest.mark.parametrize(
    "arguments", [["sha256"], ["sha1"], ["md5"], ["sha512"], ["--recursive", "sha256"], ["--recursive", "sha1"]]
)
def test_paths_added_by_hash_are_those_of_nix(nix: Lab, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "file-1.0").write_bytes(b"hello")
    path = nix.store_dir.parse_path(nix.nix_store("--add-fixed", *arguments, str(tmp_path / "file-1.0")).strip())
    ca = _ca_of(nix, path)
    assert ca.store_path("file-1.0", [], nix.store_dir) == path
    assert ca.proves(path, [], nix.store_dir)


def test_an_added_tree_has_the_path_that_nix_gave_it(nix: Lab, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "bar").write_bytes(b"foo\n")
    path = nix.add(tree)
    assert _ca_of(nix, path) == ContentAddress(Method.NAR, Hash.of(nix.dump(path)))
    assert _ca_of(nix, path).store_path("tree", [], nix.store_dir) == path


def test_text_files_of_the_evaluator_have_the_paths_that_nix_gave_them(nix: Lab) -> None:
    expression = 'let a = builtins.toFile "a" "hello"; in [ a (builtins.toFile "b" "see ${a}") ]'
    full_a, full_b = json.loads(nix.nix("eval", "--impure", "--json", "--expr", expression))
    a = ContentAddress(Method.TEXT, Hash.of(b"hello")).store_path("a", [], nix.store_dir)
    b = ContentAddress(Method.TEXT, Hash.of(f"see {full_a}".encode())).store_path("b", [a], nix.store_dir)
    assert [full_a, full_b] == [nix.store_dir.join(a), nix.store_dir.join(b)]


def test_a_content_addressed_output_that_refers_to_itself_is_proved(lab: Lab) -> None:
    closure = lab.build_ca()
    assert _ca_of(lab, closure.top).proves(closure.top, [closure.top, closure.dep], lab.store_dir)
    assert not _ca_of(lab, closure.top).proves(closure.top, [closure.dep], lab.store_dir)
    assert _ca_of(lab, closure.dep).proves(closure.dep, [], lab.store_dir)
