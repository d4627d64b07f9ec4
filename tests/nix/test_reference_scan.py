import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab

from harmonia_py.nix import base32, reference_scan
from harmonia_py.nix.reference_scan import ReferenceScan

HASH = "1b9p07z77phvv2hf6gm9f28syp39f1ag"
WINDOW = re.compile(rb"(?=([0-9abcdfghijklmnpqrsvwxyz]{32}))")

# Rows of digits of about the length that counts, text that nearly is one, and what separates them.
pieces = st.one_of(
    st.text(base32.ALPHABET, min_size=28, max_size=70).map(str.encode),
    st.text("etou-/ \n", min_size=1, max_size=3).map(str.encode),
    st.text(base32.ALPHABET[:3], max_size=9).map(str.encode),
    st.binary(max_size=600),
    st.just(b"0" * 5000),
)


def scanned(*chunks: bytes) -> set[str]:
    scan = ReferenceScan()
    for chunk in chunks:
        scan.update(chunk)
    assert scan.is_complete
    return set(scan.found)


@given(st.lists(pieces, max_size=30).map(b"".join), st.lists(st.integers(0, 20_000), max_size=12))
def test_it_finds_every_row_of_32_digits_however_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:stop] for start, stop in pairwise(edges)]
    assert scanned(*chunks) == {found.decode() for found in WINDOW.findall(data)}


def test_bytes_may_come_one_by_one() -> None:
    data = f"/nix/store/{HASH}-name".encode()
    assert scanned(*(data[i : i + 1] for i in range(len(data)))) == {HASH}


def test_it_finds_a_hash_part_wherever_it_stands() -> None:
    for before in range(5000, 5000 + 80):
        data = b"\0" * before + HASH.encode() + b"\0" * 40
        assert scanned(data) == {HASH}


def test_it_finds_a_hash_part_in_text_wherever_it_stands() -> None:
    text = b"as long as all digits fall in a few rows and small words like all "
    for before in range(4060, 4140):
        data = (text * 70)[:before] + b"/" + HASH.encode() + b"-" + text * 70
        assert scanned(data) == {HASH}


def test_what_is_too_much_to_remember_is_said_and_costs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_scan, "MAX_CANDIDATES", 1000)
    scan = ReferenceScan()
    for number in range(1001):
        scan.update(base32.encode(number.to_bytes(20, "big")).encode() + b"-")
    assert not scan.is_complete
    count = len(scan.found)
    scan.update(HASH.encode())
    assert len(scan.found) == count == 1001


def test_one_row_that_goes_on_for_megabytes_ends_the_scan() -> None:
    scan = ReferenceScan()
    for _ in range(40):
        scan.update(b"ab" * 32768)
    assert not scan.is_complete
    assert len(scan.found) == 2


def test_nix_refers_to_nothing_that_is_not_found(lab: Lab) -> None:
    for path in lab.closure.top, lab.closure.input2, lab.closure.input0, lab.closure.derivation:
        references = {
            lab.store_dir.parse_path(line).hash_part
            for line in lab.nix_store("--query", "--references", lab.full(path)).splitlines()
        }
        assert references <= scanned(lab.dump(path))
        if path != lab.closure.derivation:  # which names its own outputs as well
            assert references == scanned(lab.dump(path))
