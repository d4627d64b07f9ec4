"""The hash modulo a hash part: whatever the chunks, and as every Nix computes it."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from nix_versions import INSTALLED, VERSIONS, NixVersion

from harmonia_py.errors import FormatError
from harmonia_py.nix import hash_modulo
from harmonia_py.nix.content_address import ContentAddress
from harmonia_py.nix.hash_modulo import HashModulo
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart

HASH_PART = HashPart.parse("2bxnhphmzpw8w0glwy2ywa4jbfl1hbqk")
# Its own beginning is in it again and again: what is left over from one chunk must not be found twice.
PERIODIC = HashPart.parse("ab" * 16)
ZEROS = bytes(32)


def in_chunks(data: bytes, cuts: Sequence[int], hash_part: HashPart) -> tuple[Hash, Hash]:
    modulo = HashModulo(hash_part)
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        modulo.update(data[start:stop])
    return modulo.hashes()


def at_once(data: bytes, hash_part: HashPart) -> tuple[Hash, Hash]:
    """The definition, in memory."""
    places = [match.start() for match in re.finditer(hash_part.encode(), data)]
    bare = data.replace(hash_part.encode(), ZEROS)
    return Hash.of(bare + b"".join(b"|%d" % place for place in places)), Hash.of(bare)


def texts(hash_part: HashPart) -> st.SearchStrategy[bytes]:
    name = hash_part.encode()
    parts = st.sampled_from([name, name[:-1], name[1:], name[:3], name[-3:], ZEROS, b"", b"/", b"\0"]) | st.binary()
    return st.lists(parts, max_size=12).map(b"".join)


@pytest.mark.parametrize("hash_part", [HASH_PART, PERIODIC])
@given(data=st.data())
def test_chunks_of_any_size_make_no_difference(hash_part: HashPart, data: st.DataObject) -> None:
    text = data.draw(texts(hash_part))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=30)))
    assert in_chunks(text, cuts, hash_part) == at_once(text, hash_part)


@pytest.mark.parametrize("hash_part", [HASH_PART, PERIODIC])
def test_a_name_is_found_across_the_border_of_chunks_wherever_it_is(hash_part: HashPart) -> None:
    name = hash_part.encode()
    text = b"x" * 40 + name + b"y" + name + name + b"z" * 40
    assert at_once(text, hash_part)[1] == Hash.of(b"x" * 40 + ZEROS + b"y" + ZEROS * 2 + b"z" * 40)
    for cut in range(len(text) + 1):
        assert in_chunks(text, [cut], hash_part) == at_once(text, hash_part)
    assert in_chunks(text, list(range(len(text))), hash_part) == at_once(text, hash_part)


def test_without_the_name_it_is_the_hash_of_the_bytes() -> None:
    assert in_chunks(b"nothing", [], HASH_PART) == (Hash.of(b"nothing"), Hash.of(b"nothing"))
    assert in_chunks(b"", [], HASH_PART) == (Hash.of(b""), Hash.of(b""))


def test_with_the_places_zeros_are_no_name() -> None:
    name = HASH_PART.encode()
    one, other = in_chunks(name + ZEROS, [], HASH_PART), in_chunks(name + name, [], HASH_PART)
    assert one[0] != other[0]
    assert one[1] == other[1]


def test_the_hash_can_be_asked_for_in_between() -> None:
    modulo = HashModulo(HASH_PART)
    for end in range(0, 100, 7):
        data = (b"x" * 10 + HASH_PART.encode()) * 3
        if end:
            modulo.update(data[end - 7 : end])
        assert modulo.hashes() == at_once(data[:end], HASH_PART)


def test_an_archive_of_nothing_but_its_own_name_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_modulo, "MAX_SELF_REFERENCES", 1000)
    modulo = HashModulo(HASH_PART)
    modulo.update(HASH_PART.encode() * 1000)
    assert modulo.hashes() == at_once(HASH_PART.encode() * 1000, HASH_PART)
    with pytest.raises(FormatError, match="too often"):
        modulo.update(HASH_PART.encode())


EXPRESSION = """
derivation {
  name = "selfish";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  args = [ "-e" (builtins.toFile "builder.sh" ''
    mkdir $out; echo "$out/x $out" > $out/self; ln -s $out/self $out/link
    head -c 100 /dev/zero > $out/zeros; printf %s $out >> $out/zeros
  '') ];
  __contentAddressed = true;
  outputHashMode = "recursive";
  outputHashAlgo = "sha256";
}
"""


@pytest.fixture(
    params=[
        pytest.param(version, id=version.name, marks=[] if version is INSTALLED else [pytest.mark.slow])
        for version in VERSIONS
    ]
)
def version(request: pytest.FixtureRequest) -> NixVersion:
    version: NixVersion = request.param
    if version.missing is not None:
        pytest.skip(version.missing)
    return version


@pytest.fixture
def nix(version: NixVersion, tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "lab").mkdir()
    with Lab(tmp_path / "lab") as lab:
        lab.env = version.wrap(lab.env, tmp_path)
        yield lab


def test_it_is_the_content_address_that_nix_gives_what_refers_to_itself(nix: Lab) -> None:
    expression = nix.root / "selfish.nix"
    expression.write_text(EXPRESSION)
    full = nix.run("nix-build", "--no-out-link", str(expression)).stdout.decode().strip()
    path = nix.store_dir.parse_path(full)
    (described,) = nix.path_infos(full).values()
    modulo = HashModulo(path.hash_part)
    nar = nix.dump(path)
    modulo.update(nar)
    with_places, without = modulo.hashes()
    assert nar.count(path.hash_part.encode()) == 4
    assert with_places != without
    major, minor = map(int, nix.run("nix", "--version").stdout.decode().split()[-1].split(".")[:2])
    expected = without if (2, 17) <= (major, minor) <= (2, 34) else with_places
    assert ContentAddress.parse(described["ca"]).hash == expected
    assert expected.digest != hashlib.sha256(nar).digest()
