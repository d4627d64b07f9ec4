"""Headers of objects that other programs have put into a bucket."""

import pytest

from harmonia_py.storage.s3.metadata import attributes_of, is_plain, parse


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", "[" * 100_000])
def test_what_is_not_our_json_is_no_metadata_and_no_error(text: str) -> None:
    assert parse({"harmonia": text}) == {}


def test_only_an_object_whose_headers_any_nar_may_have_is_plain() -> None:
    assert is_plain({})
    assert is_plain({"Content-Type": "application/x-nix-nar", "Storage-Class": "STANDARD"})
    assert not is_plain({"Content-Type": "text/html"})
    assert not is_plain({"Content-Encoding": "br"})
    assert not is_plain({"harmonia": "{}"})
    ours, _ = attributes_of("nar/a.nar.zst", {"file_hash": "x"}, "put")
    assert not is_plain(ours)
