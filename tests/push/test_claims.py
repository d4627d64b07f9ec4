"""What a pushed narinfo claims is held against the bytes, field by field."""

import pytest
from msgspec.structs import replace

from harmonia_py.errors import FormatError, PushRefused, PushTooLarge
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.push.claims import (
    MAX_NARINFO_SIZE,
    MAX_SIGNATURES,
    CheckedFile,
    PushedFile,
    check_address,
    check_file,
    check_references,
    check_trust,
    parse_claim,
    undeclared,
)

STORE = StoreDir("/nix/store")
PATH = StorePath("26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1")
REFERENCE = StorePath("1b9p07z77phvv2hf6gm9f28syp39f1ag-glibc-2.35")
OTHER = StorePath("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-other")
FILE = PushedFile(Hash.of(b"file"), "zstd")
INFO = PathInfo(store_path=PATH, nar_hash=Hash.of(b"nar"), nar_size=3, references=(REFERENCE,))
CLAIM = NarInfo(path_info=INFO, url=f"nar/{FILE}", compression="zstd", file_hash=FILE.file_hash, file_size=4)
CHECKED = CheckedFile(
    file=FILE, file_size=4, nar_hash=INFO.nar_hash, nar_size=3, candidates=frozenset([REFERENCE.hash_part])
)
KEY = SecretKey.generate("team-1")


def text(*lines: str) -> bytes:
    """The narinfo with these lines in place of those of the same field, or added."""
    fields = {line.partition(":")[0]: line for line in lines}
    given = CLAIM.format(STORE).decode().splitlines()
    kept = [fields.pop(line.partition(":")[0], line) for line in given]
    return "".join(f"{line}\n" for line in [*kept, *fields.values()]).encode()


def parse(data: bytes) -> tuple[NarInfo, PushedFile]:
    return parse_claim(data, PATH.hash_part, STORE)


def test_a_narinfo_as_nix_writes_it_is_read() -> None:
    assert parse(text()) == (CLAIM, FILE)
    check_file(CLAIM, CHECKED)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"StorePath: /nix/store/{OTHER}", "StorePath"),
        (f"StorePath: /gnu/store/{PATH}", "store directory"),
        ("URL: https://evil.example/nar/x.nar.zst", "URL"),
        (f"URL: ../nar/{FILE}", "URL"),
        (f"URL: nar/../nar/{FILE}", "URL"),
        (f"URL: nar/{FILE}?hash=x", "URL"),
        ("URL: nar/x.nar.zst", "URL"),
        (f"URL: nar/{FILE.file_hash.nix32}.nar.rar", "URL"),
        ("NarHash: md5:" + "0" * 32, "sha256"),
        ("NarSize: 0", "size"),
        ("NarSize: -1", "size"),
        ("NarSize: 99999999999999999999", "size"),
        ("References: nonsense", "store path"),
        (f"References: {REFERENCE} ../../etc", "store path"),
        ("Deriver: ../x.drv", "store path"),
        ("Sig: nonsense", "Sig"),
        ("Sig: key:AAAA", "Sig"),
        ("Compression: zstd\r", "field"),
        ("CA: fixed:sha256:x", "content address"),
        ("CA: fixed:r:sha256:" + "0" * 52 + "\x0b", "content address"),
    ],
)
def test_what_does_not_parse_is_refused(line: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse(text(line))


@pytest.mark.parametrize("field", ["StorePath", "URL", "Compression", "FileHash", "NarHash", "References", "Deriver"])
def test_no_field_can_hold_a_second_line(field: str) -> None:
    """Attic prints what was pushed into the narinfos that it serves, line breaks as well."""
    line = next(line for line in text("Deriver: unknown-deriver").decode().splitlines() if line.startswith(field))
    with pytest.raises(FormatError):
        parse(text(f"{line}\nNarSize: 1"))
    claim, _ = parse(text(f"{line}\nInjected: x"))
    assert b"Injected" not in claim.format(STORE)


def test_the_narinfo_and_its_signatures_are_bounded() -> None:
    with pytest.raises(PushTooLarge):
        parse(text() + b"X: " + b"x" * MAX_NARINFO_SIZE + b"\n")
    lines = "".join(f"Sig: {SecretKey.generate(f'k{n}').sign(b'x')}\n" for n in range(MAX_SIGNATURES + 1)).encode()
    with pytest.raises(PushTooLarge, match="Sig"):
        parse(text() + lines)


@pytest.mark.parametrize(
    ("field", "claim"),
    [
        ("Compression", replace(CLAIM, compression="xz")),
        ("FileHash", replace(CLAIM, file_hash=Hash.of(b"other"))),
        ("FileSize", replace(CLAIM, file_size=5)),
        ("NarHash", replace(CLAIM, path_info=replace(INFO, nar_hash=Hash.of(b"other")))),
        ("NarSize", replace(CLAIM, path_info=replace(INFO, nar_size=4))),
    ],
)
def test_the_field_that_differs_is_named(field: str, claim: NarInfo) -> None:
    with pytest.raises(PushRefused, match=f"^{field}: "):
        check_file(claim, CHECKED)


def test_what_is_not_claimed_is_not_held_against_anything() -> None:
    check_file(replace(CLAIM, file_hash=None, file_size=None), CHECKED)


def check(info: PathInfo, checked: CheckedFile = CHECKED, *, here: tuple[StorePath, ...] = ()) -> None:
    known = {path.hash_part: path for path in here}
    left_out = [known[hash_part] for hash_part in undeclared(info, checked.candidates, STORE) if hash_part in known]
    check_references(info, checked, STORE, left_out=left_out, here=known)


def test_references_that_stand_in_the_nar_are_right_whether_they_are_here_or_not() -> None:
    check(INFO)
    check(INFO, here=(REFERENCE,))


def test_a_reference_that_is_left_out_is_refused_by_name_when_the_cache_has_it() -> None:
    with pytest.raises(PushRefused, match=f"References: {REFERENCE} .* left out"):
        check(replace(INFO, references=()), here=(REFERENCE,))
    # Otherwise it may be anything that looks like a hash part.
    check(replace(INFO, references=()))


def test_a_reference_that_is_invented_is_refused_by_name() -> None:
    invented = replace(INFO, references=(REFERENCE, OTHER))
    with pytest.raises(PushRefused, match=f"References: {OTHER} is neither"):
        check(invented)
    check(invented, here=(OTHER,))
    check(invented, replace(CHECKED, candidates=None))


def test_a_path_refers_to_itself_or_not() -> None:
    check(replace(INFO, references=(REFERENCE, PATH)), here=(PATH,))
    check(INFO, replace(CHECKED, candidates=frozenset([REFERENCE.hash_part, PATH.hash_part])), here=(PATH,))


def test_a_reference_has_the_name_that_it_has_in_the_cache() -> None:
    renamed = StorePath(f"{REFERENCE.hash_part}-evil")
    with pytest.raises(PushRefused, match="is called"):
        check(INFO, here=(renamed,))


def addressed(nar_hash: Hash, *references: StorePath) -> PathInfo:
    ca = ContentAddress(Method.NAR, nar_hash)
    path = ca.store_path("hello", references, STORE)
    return PathInfo(store_path=path, nar_hash=nar_hash, nar_size=3, references=references, ca=ca)


def test_a_content_address_that_leads_to_the_path_settles_its_references() -> None:
    """A derivation names its outputs, a source may name anything: neither refers to it."""
    info = addressed(INFO.nar_hash)
    assert not undeclared(info, CHECKED.candidates, STORE)
    check(info, here=(REFERENCE,))
    check_address(info, STORE)


def test_a_content_address_that_leads_elsewhere_is_refused() -> None:
    info = addressed(INFO.nar_hash)
    with pytest.raises(PushRefused, match="CA"):
        check_address(replace(info, store_path=PATH), STORE)
    with pytest.raises(PushRefused, match="CA"):
        check_address(replace(info, references=(OTHER,)), STORE)
    with pytest.raises(PushRefused, match="CA"):
        check_address(replace(info, nar_hash=Hash.of(b"other")), STORE)


def test_a_cache_that_wants_signatures_takes_what_is_signed() -> None:
    keys = [KEY.public_key]
    signed = replace(INFO, signatures=(KEY.sign(INFO.fingerprint(STORE)),))
    check_trust(signed, STORE, keys)
    check_trust(INFO, STORE, [])
    check_trust(addressed(INFO.nar_hash), STORE, keys)
    with pytest.raises(PushRefused, match="team-1"):
        check_trust(INFO, STORE, keys)
    with pytest.raises(PushRefused, match="Sig"):
        check_trust(replace(signed, references=()), STORE, keys)


def test_the_file_of_a_push_is_named_by_its_hash() -> None:
    for compression in ("none", "xz", "zstd", "bzip2", "br", "lz4", "lzip"):
        file = PushedFile(FILE.file_hash, compression)
        assert PushedFile.parse(str(file)) == file
    for name in ("", "x.nar", f"{HashPart('0' * 32)}.nar", f"{FILE.file_hash.nix32}.nar.", f"{FILE}/x", f"{FILE}\n"):
        with pytest.raises(FormatError):
            PushedFile.parse(name)
