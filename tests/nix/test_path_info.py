from hypothesis import given
from lab import Lab
from strategies import path_infos

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo, sorted_references
from harmonia_py.nix.signing import SecretKey, Signature
from harmonia_py.nix.store_path import StoreDir, StorePath

STORE_DIR = StoreDir.parse("/nix/store")


def test_the_fingerprint_is_that_of_a_known_path() -> None:
    info = PathInfo(
        store_path=StorePath.parse("syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin"),
        nar_hash=Hash.parse("sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0"),
        nar_size=196040,
        references=sorted_references(
            StorePath.parse(text)
            for text in (
                "yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1n",
                "0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0",
                "j5jxw3iy7bbz4a57fh9g2xm2gxmyal8h-zlib-1.2.12",
                "6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115",
                "0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0",
            )
        ),
    )
    assert info.fingerprint(STORE_DIR) == (
        b"1;/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin;"
        b"sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0;196040;"
        b"/nix/store/0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0,"
        b"/nix/store/6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115,"
        b"/nix/store/j5jxw3iy7bbz4a57fh9g2xm2gxmyal8h-zlib-1.2.12,"
        b"/nix/store/yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1n"
    )


def test_the_fingerprint_of_a_path_without_references_ends_in_a_semicolon() -> None:
    info = PathInfo(
        store_path=StorePath.parse("syd87l2rxw8cbsxmxl853h0r6pdwhwjr-a"), nar_hash=Hash.of(b""), nar_size=112
    )
    assert info.fingerprint(STORE_DIR).endswith(b";112;")


@given(path_infos)
def test_references_in_the_fingerprint_are_sorted_as_full_paths(info: PathInfo) -> None:
    references = info.fingerprint(STORE_DIR).decode().rpartition(";")[2]
    full = references.split(",") if references else []
    assert full == sorted({STORE_DIR.join(reference) for reference in info.references})


def test_our_signature_equals_that_of_nix(lab: Lab) -> None:
    keys = lab.secret_key("lab-1")
    lab.nix("store", "sign", "--recursive", "--key-file", str(keys.secret_file), lab.full(lab.closure.top))
    key = SecretKey.parse(keys.secret_file.read_text())
    described = lab.path_infos("--recursive", lab.full(lab.closure.top))
    assert len(described) == 3
    for path, item in described.items():
        info = PathInfo(
            store_path=lab.store_dir.parse_path(path),
            nar_hash=Hash.parse(item["narHash"]),
            nar_size=item["narSize"],
            references=sorted_references(map(lab.store_dir.parse_path, item["references"])),
            signatures=tuple(map(Signature.parse, item["signatures"])),
        )
        assert key.sign(info.fingerprint(lab.store_dir)) in info.signatures
