import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harmonia_py.errors import FormatError
from harmonia_py.nix import base32

VECTORS = [
    ("", ""),
    ("1f", "0z"),
    (
        "d86b3392c1202e8ff5a423b302e6284db7f8f435ea9f39b5b1b20fd3ac36dfcb",
        "1jyz6snd63xjn6skk7za6psgidsd53k05cr3lksqybi0q6936syq",
    ),
    (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
    ),
    ("a9993e364706816aba3e25717850c26c9cd0d89d", "kpcd173cq987hw957sx6m0868wv3x6d9"),
]


@pytest.mark.parametrize(("base16", "text"), VECTORS)
def test_known_bytes_have_their_known_form(base16: str, text: str) -> None:
    assert base32.encode(bytes.fromhex(base16)) == text
    assert base32.decode(text) == bytes.fromhex(base16)
    assert base32.encoded_length(len(base16) // 2) == len(text)


@pytest.mark.parametrize(
    "text", ["0t", "zz", "c0", "0", "0Z", "0é", "0\N{ARABIC-INDIC DIGIT ONE}", "0_0", "+0", " 0", "0\n"]
)
def test_what_no_bytes_encode_to_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        base32.decode(text)


@given(st.binary(max_size=80))
def test_decoding_undoes_encoding(data: bytes) -> None:
    assert base32.decode(base32.encode(data)) == data


@given(st.text(max_size=80) | st.text(base32.ALPHABET, max_size=80))
@example("\ud800")
def test_any_text_decodes_to_bytes_that_encode_to_it_or_is_refused(text: str) -> None:
    try:
        data = base32.decode(text)
    except FormatError:
        return
    assert base32.encode(data) == text


@given(st.binary(min_size=1, max_size=40))
def test_the_arithmetic_equals_the_definition_digit_by_digit(data: bytes) -> None:
    """The definition, as `printHash32` of Nix has it."""
    digits = []
    for n in reversed(range(base32.encoded_length(len(data)))):
        i, j = divmod(n * 5, 8)
        value = data[i] >> j | (data[i + 1] << (8 - j) if i + 1 < len(data) else 0)
        digits.append(base32.ALPHABET[value & 31])
    assert base32.encode(data) == "".join(digits)
