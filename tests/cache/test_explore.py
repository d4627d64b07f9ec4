import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.cache import explore
from harmonia_py.cache.explore import Matches, PathIndex
from harmonia_py.nix.base32 import ALPHABET
from harmonia_py.nix.store_path import StorePath

HASHES = st.text(ALPHABET, min_size=32, max_size=32)
NAMES = st.text("aAbB01-._", min_size=1, max_size=12).filter(lambda name: not name.startswith("."))
PATHS = st.builds(lambda hash_part, name: StorePath.parse(f"{hash_part}-{name}"), HASHES, NAMES)


def path(name: str, hash_part: str = "0" * 32) -> StorePath:
    return StorePath.parse(f"{hash_part.ljust(32, '0')}-{name}")


def names(index: PathIndex, query: str, limit: int = 100) -> list[str]:
    return [found.name for found in index.search(query, limit).paths]


def test_names_that_begin_with_the_query_come_before_those_that_contain_it() -> None:
    index = PathIndex(map(path, ["libgcc-13", "gcc-wrapper", "zlib", "gcc", "gcc-13"]))
    assert names(index, "gcc") == ["gcc", "gcc-13", "gcc-wrapper", "libgcc-13"]


def test_a_path_is_found_by_the_beginning_of_its_hash() -> None:
    index = PathIndex([path("a", "abc"), path("b", "abd"), path("c", "0abc")])
    assert names(index, "ab") == ["a", "b"]
    assert names(index, "abc") == ["a"]


def test_upper_and_lower_case_are_the_same() -> None:
    index = PathIndex([path("ImageMagick-7")])
    assert names(index, "imagemagick") == names(index, "MAGICK") == ["ImageMagick-7"]


def test_several_words_must_all_be_in_the_name() -> None:
    index = PathIndex(map(path, ["python3.11-requests-2", "python3.12-requests-2", "requests-1", "python3"]))
    assert names(index, "python3.11 requests") == ["python3.11-requests-2"]
    assert names(index, "requests python") == ["python3.11-requests-2", "python3.12-requests-2"]


def test_the_middle_of_a_hash_finds_nothing() -> None:
    assert names(PathIndex([path("zlib", "0abcd")]), "abcd") == []


def test_there_is_an_end_to_what_is_found_and_it_says_so() -> None:
    index = PathIndex(path(f"glibc-{number}") for number in range(11))
    found = index.search("glibc", 10)
    assert (len(found.paths), found.more) == (10, True)
    assert not index.search("glibc", 11).more


def test_a_search_looks_at_so_many_paths_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for common words that no name has together cost 400 ms of computing at 100,000 paths."""
    index = PathIndex([*(path(f"a-{number:04}") for number in range(2000)), path("b-a-x"), path("c-a-rare-x")])
    monkeypatch.setattr(explore, "_MAX_LINES", 1000)
    assert index.search("a x", 10) == Matches((), more=True)
    # The rare word leads to it at once, wherever it stands.
    assert names(index, "a rare") == names(index, "rare a") == ["c-a-rare-x"]
    assert index.search("a none", 10) == Matches((), more=False)
    assert names(index, " ".join("abcdefghijklmnopqrstuvwxyz")) == []


def test_an_empty_store_and_an_empty_query_find_nothing() -> None:
    assert names(PathIndex([]), "a") == []
    assert names(PathIndex([path("a")]), " \t\n") == []
    assert PathIndex([]).count == 0


@given(paths=st.lists(PATHS, unique=True, max_size=30), query=st.text("aAbB01-._ \n\té", max_size=4))
def test_a_search_finds_what_looking_at_every_path_finds(paths: list[StorePath], query: str) -> None:
    words = query.lower().split()
    expected = {
        path
        for path in paths
        if words
        and (
            all(word in path.name.lower() for word in words)
            or (len(words) == 1 and path.hash_part.startswith(words[0]))
        )
    }
    found = PathIndex(paths).search(query, 100)
    assert (set(found.paths), len(found.paths), found.more) == (expected, len(expected), False)


def test_a_hundred_thousand_paths_are_searched_in_the_blink_of_an_eye() -> None:
    randomly = random.Random(1)
    index = PathIndex(
        path(f"package-{number}-{randomly.randrange(1000)}", "".join(randomly.choices(ALPHABET, k=32)))
        for number in range(100_000)
    )
    begin = time.thread_time()
    for query in ("package-77", "7-12", "zzzz", "x", "nothing like it"):
        index.search(query, 100)
    # 20 ms on one machine; the limit is for those that are slow and busy.
    assert time.thread_time() - begin < 1
