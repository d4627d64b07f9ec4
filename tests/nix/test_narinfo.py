import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from strategies import nar_urls, narinfos, store_dirs

from harmonia_py.errors import FormatError
from harmonia_py.nix.content_address import ContentAddress
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import MAX_NARINFO_SIZE, NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import Signature
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

STORE_DIR = StoreDir.parse("/nix/store")
TOP = "hidpjz9mdqyg27v4ryc6w9ij4c7dsv6z-dependencies-top"
INPUT2 = "mpy5vfzzckmgrb2cy76w19j10mj2kmz9-dependencies-input-2"
SIGNATURE = "lab-1:WiI5pbNtBOhmmmFZWu71syU6nVFxs6E5pkgJdIe9OOo1Ovi+AC9uiqHb/gEwot01DsigJcPgZoKtiejJPwO5Aw=="
# As Nix 2.8 wrote it.
TEXT = f"""\
StorePath: /nix/store/{TOP}
URL: nar/19xclpx9aw7vizg6zxvq936qj4nic87gcb9ak8pin98xmjd2cl5a.nar.xz
Compression: xz
FileHash: sha256:19xclpx9aw7vizg6zxvq936qj4nic87gcb9ak8pin98xmjd2cl5a
FileSize: 356
NarHash: sha256:0n4ad8nbbshgh53jk4jrdg3swalhv97yhrjamnhf7rck9w0vjmg2
NarSize: 1032
References: {TOP} {INPUT2}
Deriver: 2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-dependencies-top.drv
Sig: {SIGNATURE}
CA: fixed:r:sha256:1517mc63ihj3mpgzc3vgpj9snvhi1wj0ipsj916p9kddyl1780lk
"""
NAR_HASH = Hash.parse("sha256:0n4ad8nbbshgh53jk4jrdg3swalhv97yhrjamnhf7rck9w0vjmg2")
NARINFO = NarInfo(
    path_info=PathInfo(
        store_path=StorePath.parse(TOP),
        nar_hash=NAR_HASH,
        nar_size=1032,
        references=(StorePath.parse(TOP), StorePath.parse(INPUT2)),
        deriver=StorePath.parse("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-dependencies-top.drv"),
        signatures=(Signature.parse(SIGNATURE),),
        ca=ContentAddress.parse("fixed:r:sha256:1517mc63ihj3mpgzc3vgpj9snvhi1wj0ipsj916p9kddyl1780lk"),
    ),
    url="nar/19xclpx9aw7vizg6zxvq936qj4nic87gcb9ak8pin98xmjd2cl5a.nar.xz",
    compression="xz",
    file_hash=Hash.parse("sha256:19xclpx9aw7vizg6zxvq936qj4nic87gcb9ak8pin98xmjd2cl5a"),
    file_size=356,
)


def _parse(text: str) -> NarInfo:
    return NarInfo.parse(text.encode(), STORE_DIR)


def _with(field: str, line: str | None) -> str:
    """`TEXT`, with the line of `field` replaced by `line`, or without it."""
    lines = TEXT.splitlines()
    index = next(index for index, text in enumerate(lines) if text.startswith(field + ":"))
    lines[index : index + 1] = [] if line is None else [line]
    return "\n".join([*lines, ""])


def test_a_narinfo_of_nix_is_read_and_written() -> None:
    assert _parse(TEXT) == NARINFO
    assert NARINFO.format(STORE_DIR).decode() == TEXT


def test_a_path_without_references_keeps_the_space_after_the_colon() -> None:
    """Nix takes a value from the second byte after the colon: without the space it swallows the next line."""
    narinfo = NarInfo(
        path_info=PathInfo(store_path=StorePath.parse(TOP), nar_hash=NAR_HASH, nar_size=112),
        url="u",
        compression="none",
    )
    text = narinfo.format(STORE_DIR).decode()
    assert text.splitlines()[-1] == "References: "
    assert text.endswith("\n")
    assert _parse(text) == narinfo


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (_with("References", "References: "), lambda narinfo: narinfo.path_info.references == ()),
        (_with("References", None), lambda narinfo: narinfo.path_info.references == ()),
        (_with("References", f"References: {INPUT2}  {TOP} {INPUT2} "), lambda narinfo: narinfo == NARINFO),
        (_with("FileHash", None), lambda narinfo: narinfo.file_hash is None),
        (_with("FileSize", None), lambda narinfo: narinfo.file_size is None),
        (_with("Compression", None), lambda narinfo: narinfo.compression == "bzip2"),
        (_with("Compression", "Compression: "), lambda narinfo: narinfo.compression == "bzip2"),
        (_with("Compression", "Compression: new+1"), lambda narinfo: narinfo.compression == "new+1"),
        (_with("NarHash", f"NarHash: sha256:{NAR_HASH.base16}"), lambda narinfo: narinfo == NARINFO),
        (_with("NarHash", f"NarHash: {NAR_HASH.sri}"), lambda narinfo: narinfo == NARINFO),
        (_with("NarHash", f"NarHash: {NAR_HASH.sri.replace('-', ':')}"), lambda narinfo: narinfo == NARINFO),
        (_with("Deriver", "Deriver: unknown-deriver"), lambda narinfo: narinfo.path_info.deriver is None),
        (_with("Deriver", None), lambda narinfo: narinfo.path_info.deriver is None),
        (_with("Sig", "Sig: garbage"), lambda narinfo: narinfo.path_info.signatures == ()),
        (_with("Sig", f"Sig: garbage\nSig: {SIGNATURE}\nSig: {SIGNATURE}"), lambda narinfo: narinfo == NARINFO),
        (_with("CA", "CA: "), lambda narinfo: narinfo.path_info.ca is None),
        (_with("CA", None), lambda narinfo: narinfo.path_info.ca is None),
        (TEXT + "System: x86_64-linux\n", lambda narinfo: narinfo == NARINFO),
        (TEXT + 'Future: {"a": "b: c"}\nFuture: \n', lambda narinfo: narinfo == NARINFO),
        ("".join(sorted(TEXT.splitlines(keepends=True))), lambda narinfo: narinfo == NARINFO),
    ],
)
def test_what_nix_accepts_is_read_as_nix_reads_it(text: str, read: Callable[[NarInfo], bool]) -> None:
    assert read(_parse(text))


@pytest.mark.parametrize(
    "text",
    [
        _with("References", "References:"),
        _with("References", f"References:\t{TOP}"),
        _with("References", f"References: {TOP}\t{INPUT2}"),
        _with("References", f"References: {TOP},{INPUT2}"),
        _with("References", f"References: /nix/store/{TOP}"),
        TEXT.replace("\n", "\r\n"),
        _with("Sig", f"Sig: {SIGNATURE}\r"),
        TEXT[:-1],
        "\n" + TEXT,
        TEXT + "\n",
        TEXT.replace("\nNarSize", "\n\nNarSize"),
        TEXT + f"References: {TOP}\n",
        TEXT + "CA: fixed:r:sha256:1517mc63ihj3mpgzc3vgpj9snvhi1wj0ipsj916p9kddyl1780lk\n",
        TEXT + f"NarHash: {NAR_HASH}\n",
        TEXT + "no field\n",
        _with("NarHash", None),
        _with("NarHash", f"NarHash: {NAR_HASH.nix32}"),
        _with("NarHash", "NarHash: sha1:kpcd173cq987hw957sx6m0868wv3x6d9"),
        _with("NarSize", None),
        _with("NarSize", "NarSize: 0"),
        _with("NarSize", "NarSize: -1"),
        _with("NarSize", "NarSize: 0x10"),
        _with("NarSize", f"NarSize: {2**63}"),
        _with("NarSize", "NarSize: \N{ARABIC-INDIC DIGIT ONE}"),
        _with("NarSize", "NarSize: " + "9" * 5000),
        _with("FileSize", "FileSize: "),
        _with("FileHash", "FileHash: "),
        _with("Deriver", "Deriver: "),
        _with("URL", None),
        _with("URL", "URL: "),
        _with("URL", "URL: nar/a b.nar"),
        _with("URL", "URL: nar/\x1b[0m.nar"),
        _with("Compression", "Compression: x z"),
        _with("CA", "CA: fixed:r:sha256:1517mc63ihj3mpgzc3vgpj9snvhi1wj0ipsj916p9kddyl1780l"),
        _with("CA", "CA: sha256:1517mc63ihj3mpgzc3vgpj9snvhi1wj0ipsj916p9kddyl1780lk"),
        _with("CA", "CA: fixed:r:blake3:a b"),
        _with("StorePath", None),
        _with("StorePath", f"StorePath: {TOP}"),
        _with("StorePath", f"StorePath: /gnu/store/{TOP}"),
        _with("StorePath", f"StorePath: /nix/store/{TOP}/bin"),
        "",
        "\n",
    ],
)
def test_what_nix_calls_corrupt_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        _parse(text)


@pytest.mark.parametrize("ca", ["fixed:r:blake3:0wz6lg1xbk8c", "fixed:tree:sha256:00", "path:sha512-half:+/="])
def test_a_content_address_of_a_later_nix_is_told_as_it_came(ca: str) -> None:
    text = _with("CA", f"CA: {ca}")
    assert _parse(text).format(STORE_DIR).decode() == text
    assert _parse(text).to_json(STORE_DIR)["ca"] == ca


@pytest.mark.parametrize("data", [b"\xff\n", b"A: " + bytes(MAX_NARINFO_SIZE) + b"\n", TEXT.encode("utf-16")])
def test_bytes_that_are_no_text_or_too_many_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        NarInfo.parse(data, STORE_DIR)


@given(narinfos, store_dirs)
def test_what_is_formatted_is_read_back(narinfo: NarInfo, store_dir: StoreDir) -> None:
    assert NarInfo.parse(narinfo.format(store_dir), store_dir) == narinfo


@given(narinfos)
def test_each_line_is_one_field_with_one_colon_and_space(narinfo: NarInfo) -> None:
    """Tools built on go-nix refuse a line with a second `: `."""
    for line in narinfo.format(STORE_DIR).decode().removesuffix("\n").split("\n"):
        assert line.count(": ") == 1


_LINES = st.permutations([*TEXT.splitlines(keepends=True), "A:\n", ": \n"])


@given(st.binary() | st.builds(lambda lines, stop: "".join(lines[:stop]).encode(), _LINES, st.integers(0, 13)))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        narinfo = NarInfo.parse(data, STORE_DIR)
    except FormatError:
        return
    assert NarInfo.parse(narinfo.format(STORE_DIR), STORE_DIR) == narinfo


@given(st.integers(0, len(TEXT) - 1), st.text(max_size=3))
def test_a_damaged_narinfo_parses_or_is_refused(index: int, damage: str) -> None:
    try:
        narinfo = NarInfo.parse((TEXT[:index] + damage + TEXT[index + 1 :]).encode(errors="surrogatepass"), STORE_DIR)
    except FormatError:
        return
    assert NarInfo.parse(narinfo.format(STORE_DIR), STORE_DIR) == narinfo


def test_json_is_the_third_version_of_nix() -> None:
    """The values of Nix's `src/libstore-tests/data/nar-info/json-3/impure.json`."""
    hash_ = Hash.parse("sha256-FePFYIlMuycIXPZbWi7LGEiMmZSX9FMbaQenWBzm1Sc=")
    zeros = "A" * 86 + "=="
    narinfo = NarInfo(
        path_info=PathInfo(
            store_path=StorePath.parse("n5wkd9frr45pa74if5gpz9j7mifg27fh-foo"),
            nar_hash=hash_,
            nar_size=34878,
            references=(
                StorePath.parse("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar"),
                StorePath.parse("n5wkd9frr45pa74if5gpz9j7mifg27fh-foo"),
            ),
            deriver=StorePath.parse("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv"),
            signatures=(Signature("asdf", bytes(64)), Signature("qwer", bytes(64))),
            ca=ContentAddress.parse("fixed:r:sha256:1lr187v6dck1rjh2j6svpikcfz53wyl3qrlcbb405zlh13x0khhh"),
            registration_time=23423,
            ultimate=True,
        ),
        url="nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz",
        compression="xz",
        file_hash=hash_,
        file_size=4029176,
    )
    assert narinfo.to_json(STORE_DIR) == {
        "ca": {"hash": "sha256-EMIJ+giQ/gLIWoxmPKjno3zHZrxbGymgzGGyZvZBIdM=", "method": "nar"},
        "compression": "xz",
        "deriver": "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv",
        "downloadHash": "sha256-FePFYIlMuycIXPZbWi7LGEiMmZSX9FMbaQenWBzm1Sc=",
        "downloadSize": 4029176,
        "narHash": "sha256-FePFYIlMuycIXPZbWi7LGEiMmZSX9FMbaQenWBzm1Sc=",
        "narSize": 34878,
        "references": ["g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar", "n5wkd9frr45pa74if5gpz9j7mifg27fh-foo"],
        "registrationTime": 23423,
        "signatures": [{"keyName": "asdf", "sig": zeros}, {"keyName": "qwer", "sig": zeros}],
        "storeDir": "/nix/store",
        "storePath": "n5wkd9frr45pa74if5gpz9j7mifg27fh-foo",
        "ultimate": True,
        "url": "nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz",
        "version": 3,
    }


def test_json_says_null_for_what_is_not_known_and_omits_an_unknown_file() -> None:
    narinfo = NarInfo(
        path_info=PathInfo(store_path=StorePath.parse(TOP), nar_hash=NAR_HASH, nar_size=112),
        url="u",
        compression="zstd",
    )
    value = narinfo.to_json(STORE_DIR)
    assert (value["ca"], value["deriver"], value["registrationTime"]) == (None, None, None)
    assert value.keys().isdisjoint({"downloadHash", "downloadSize"})


@given(narinfos)
def test_json_can_be_written(narinfo: NarInfo) -> None:
    value = narinfo.to_json(STORE_DIR)
    assert json.loads(json.dumps(value)) == value


HASH_PART = HashPart.parse("hidpjz9mdqyg27v4ryc6w9ij4c7dsv6z")
OTHER_PART = HashPart.parse("mpy5vfzzckmgrb2cy76w19j10mj2kmz9")


@pytest.mark.parametrize(
    ("file_name", "query", "expected"),
    [
        (f"{NAR_HASH.nix32}.nar", HASH_PART, NarUrl(HASH_PART, NAR_HASH, "none")),
        (f"{HASH_PART}-{NAR_HASH.nix32}.nar", None, NarUrl(HASH_PART, NAR_HASH, "none")),
        (f"{HASH_PART}-{NAR_HASH.nix32}.nar.zst", None, NarUrl(HASH_PART, NAR_HASH, "zstd")),
        (f"{HASH_PART}-{NAR_HASH.nix32}.nar.xz", OTHER_PART, NarUrl(HASH_PART, NAR_HASH, "xz")),
        (f"{HASH_PART}.nar", None, NarUrl(HASH_PART, None, "none")),
    ],
)
def test_every_shape_of_a_nar_url_is_read(file_name: str, query: str | None, expected: NarUrl) -> None:
    assert NarUrl.parse(file_name, query) == expected


@pytest.mark.parametrize(
    ("file_name", "query"),
    [
        ("", None),
        (f"{NAR_HASH.nix32}.nar", None),
        (f"{NAR_HASH.nix32}.nar", ""),
        (f"{NAR_HASH.nix32}.nar", "../" + HASH_PART),
        (f"{NAR_HASH.nix32}.nar", f"{HASH_PART}\n"),
        (f"{NAR_HASH.nix32}", HASH_PART),
        (f"z{NAR_HASH.nix32[1:]}.nar", HASH_PART),
        (f"{HASH_PART}-{NAR_HASH.nix32}.nar.", None),
        (f"{HASH_PART}-{NAR_HASH.nix32}.nar.rar", None),
        (f"{HASH_PART}-{NAR_HASH.nix32}.nar\n", None),
        (f"{HASH_PART}-{NAR_HASH.nix32}.narx", None),
        (f"{HASH_PART}-{NAR_HASH.base16}.nar", None),
        (f"{HASH_PART.upper()}.nar", None),
        (f"../{HASH_PART}.nar", None),
        (f"{HASH_PART}/../{HASH_PART}.nar", None),
    ],
)
def test_what_is_no_nar_url_is_refused(file_name: str, query: str | None) -> None:
    with pytest.raises(FormatError):
        NarUrl.parse(file_name, query)


def _reparse(url: NarUrl) -> NarUrl:
    file_name, _, query = str(url).removeprefix("nar/").partition("?hash=")
    return NarUrl.parse(file_name, query or None)


@given(nar_urls)
def test_a_nar_url_is_read_back(url: NarUrl) -> None:
    assert _reparse(url) == url


@given(
    st.text() | st.from_regex(r"[0-9a-df-np-su-z]{30,53}(-[0-9a-z]{52})?\.nar(\.[a-z0-9]{1,4})?", fullmatch=True),
    st.none() | st.text() | st.just(HASH_PART),
)
def test_any_text_is_a_nar_url_or_is_refused(file_name: str, query: str | None) -> None:
    try:
        url = NarUrl.parse(file_name, query)
    except FormatError:
        return
    assert _reparse(url) == url


def test_narinfos_written_by_nix_are_written_alike(lab: Lab, tmp_path: Path) -> None:
    keys = lab.secret_key("lab-1")
    ca = lab.build_ca()
    copied = [lab.full(path) for path in (lab.closure.top, ca.top)]
    lab.nix("copy", "--to", f"file://{tmp_path}/cache?compression=zstd&secret-key={keys.secret_file}", *copied)
    written = sorted((tmp_path / "cache").glob("*.narinfo"))
    assert len(written) == 5
    for file in written:
        data = file.read_bytes()
        narinfo = NarInfo.parse(data, lab.store_dir)
        assert narinfo.format(lab.store_dir) == data
        assert narinfo.path_info.store_path.hash_part == file.stem
