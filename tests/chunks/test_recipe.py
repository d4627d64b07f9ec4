"""NARs cut into chunks and made again of them, with the archive by the book as the oracle."""

import random

import pytest
from chunked import SMALL, Chunked, parts
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import hash_parts
from trees import File, Folder, Link, Tree, trees
from trees import nar as nar_of

from harmonia_py.chunks.recipe import Recipe
from harmonia_py.chunks.sizes import SIZES
from harmonia_py.contents.codecs import Unpacker
from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import HashPart

ONE = HashPart("0" * 32)
TWO = HashPart("abcdfghijklmnpqrsvwxyz0123456789")
OTHER = HashPart("zyxwvsrqpnmlkjihgfdcba9876543210")


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Contents in which hash parts stand anywhere, close to each other and far apart."""
    seed = draw(st.integers(0, 2**32))
    source = random.Random(seed)  # the same bytes for the same seed
    parts = []
    for _ in range(draw(st.integers(0, 8))):
        parts.append(source.randbytes(draw(st.integers(0, 1500))))
        parts.append(draw(st.sampled_from([b"", ONE.encode(), TWO.encode(), TWO.encode()[:31], OTHER.encode()])))
    return b"".join(parts)


references = st.lists(st.sampled_from([ONE, TWO]) | hash_parts, max_size=4, unique=True)
archives = (trees() | st.builds(File, texts()) | st.dictionaries(
    st.sampled_from([b"a", b"b", b"c", b"d"]), st.builds(File, texts()), min_size=1
).map(Folder)).map(nar_of)  # fmt: skip


def portions_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(archives, references, st.integers(1, 5000))
def test_the_nar_is_made_again_from_its_recipe(nar: bytes, known: list[HashPart], portion: int) -> None:
    chunked = Chunked()
    pieces, recipe = chunked.cut(portions_of(nar, portion), known)
    assert chunked.nar(recipe) == nar
    assert sum(map(len, pieces)) == len(nar) == recipe.nar_size
    assert all(len(piece) <= SMALL.most for piece in pieces)


@given(archives, references, st.data())
def test_any_range_of_the_nar_is_made_from_the_segments_that_have_it(
    nar: bytes, known: list[HashPart], data: st.DataObject
) -> None:
    chunked = Chunked()
    _, recipe = chunked.cut([nar], known)
    start = data.draw(st.integers(0, len(nar)))
    stop = data.draw(st.none() | st.integers(0, len(nar) + 10))
    assert chunked.nar(recipe, start, stop) == nar[start:stop]
    segments = [segment for segment, _, _ in parts(recipe.nar_ends, start, stop)]
    assert segments == list(range(segments[0], segments[-1] + 1)) if segments else not nar[start:stop]


@given(archives, references, st.data())
def test_the_file_that_is_sent_is_zstd_of_the_nar_in_any_range(
    nar: bytes, known: list[HashPart], data: st.DataObject
) -> None:
    chunked = Chunked()
    _, recipe = chunked.cut([nar], known)
    file = chunked.file(recipe)
    assert len(file) == recipe.file_size
    unpacker = Unpacker("zstd")
    assert b"".join(bytes(portion) for portion in unpacker.feed(file)) == nar
    assert unpacker.is_whole
    start = data.draw(st.integers(0, len(file)))
    stop = data.draw(st.integers(start, len(file)))
    assert chunked.file(recipe, start, stop) == file[start:stop]


@given(archives, references, st.integers(1, 5000))
def test_the_portions_in_which_a_nar_comes_make_no_difference(nar: bytes, known: list[HashPart], portion: int) -> None:
    assert Chunked().cut(portions_of(nar, portion), known)[0] == Chunked().cut([nar], known)[0]


@given(archives, references)
def test_a_recipe_reads_as_it_was_written(nar: bytes, known: list[HashPart]) -> None:
    chunked = Chunked()
    _, recipe = chunked.cut([nar], known)
    again = Recipe.parse(recipe.format())
    assert (again.nar_hash, again.references) == (recipe.nar_hash, recipe.references)
    assert chunked.nar(again) == nar
    assert chunked.file(again) == chunked.file(recipe)
    assert again.chunks() == recipe.chunks()


@given(st.binary(max_size=200), st.data())
@example(b"", None)
def test_any_bytes_are_a_recipe_or_an_error(noise: bytes, data: st.DataObject | None) -> None:
    whole = Chunked().cut([nar_of(File(b"x" * 500 + TWO.encode()))], [TWO])[1].format()
    at = 0 if data is None else data.draw(st.integers(0, len(whole)))
    for broken in (noise, whole[:at] + noise, whole[:at] + noise + whole[at + len(noise) :]):
        try:
            Recipe.parse(broken)
        except FormatError:
            continue


def program(own: HashPart, library: HashPart, contents: bytes) -> Tree:
    """What a build makes: a program that names its library and itself, a script, and data."""
    paths = b"/nix/store/" + library.encode() + b"-lib/lib:/nix/store/" + own.encode() + b"-x/share"
    return Folder(
        {
            b"bin": Folder({b"x": File(contents[:300_000] + paths + contents[300_000:], executable=True)}),
            b"share": Folder({b"data": File(contents[:200_000]), b"link": Link(b"/nix/store/" + library.encode())}),
            b"wrap": File(b"#!/nix/store/" + library.encode() + b"-sh/bin/sh\nexec x\n", executable=True),
        }
    )


def test_a_rebuild_with_other_hash_parts_has_no_chunk_of_its_own() -> None:
    contents = random.Random(1).randbytes(900_000)
    chunked = Chunked()
    first = chunked.cut([nar_of(program(ONE, TWO, contents))], [ONE, TWO], SIZES)[1]
    before = len(chunked.frames)
    second = chunked.cut([nar_of(program(OTHER, ONE, contents))], [OTHER, ONE], SIZES)[1]
    assert len(chunked.frames) == before
    assert chunked.nar(first) != chunked.nar(second) == nar_of(program(OTHER, ONE, contents))


def test_a_large_file_has_its_chunks_wherever_it_stands() -> None:
    contents = random.Random(2).randbytes(500_000)
    chunked = Chunked()
    chunked.cut([nar_of(File(contents))], (), SIZES)
    before = len(chunked.frames)
    chunked.cut([nar_of(Folder({b"somewhere": Folder({b"else": File(contents, executable=True)})}))], (), SIZES)
    assert len(chunked.frames) == before


def test_most_of_a_program_with_references_is_sent_as_it_is_kept() -> None:
    """A chunk in which a reference stands is sent without compression, so it has to be short."""
    contents = bytes(random.Random(3).choices(b"abcdefgh", k=900_000))
    chunked = Chunked()
    nar = nar_of(program(ONE, TWO, contents))
    recipe = chunked.cut([nar], [ONE, TWO], SIZES)[1]
    stored = sum(recipe.sizes[at] for at in range(recipe.segments) if not recipe.is_sent_as_kept(at))
    assert stored < 2000


@pytest.mark.parametrize("wrong", [b"hpy-rcp2" + bytes(200), b"", b"hpy-rcp1"])
def test_a_recipe_of_another_version_is_refused(wrong: bytes) -> None:
    with pytest.raises(FormatError):
        Recipe.parse(wrong)
