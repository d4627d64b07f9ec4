import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import store_dirs

from harmonia_py.errors import FormatError
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.store_path import StoreDir

STORE_DIR = StoreDir.parse("/nix/store")
DEFAULT = StoreDir.parse("/default")


def test_the_text_form_is_that_of_nix() -> None:
    info = CacheInfo(STORE_DIR, want_mass_query=True, priority=30)
    assert info.format() == b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", CacheInfo(DEFAULT, want_mass_query=False, priority=0)),
        (b"StoreDir: /nix/store\n", CacheInfo(STORE_DIR, want_mass_query=False, priority=0)),
        (b"StoreDir:/nix/store", CacheInfo(STORE_DIR, want_mass_query=False, priority=0)),
        (b"StoreDir:  /nix/store \r\nPriority: 41\r\n", CacheInfo(STORE_DIR, want_mass_query=False, priority=41)),
        (b"no colon\n\nFuture: 1\nPriority: 40\n", CacheInfo(DEFAULT, want_mass_query=False, priority=40)),
        (b"Future: a\x0cPriority: 7\n", CacheInfo(DEFAULT, want_mass_query=False, priority=0)),
        (b"WantMassQuery: 1\n", CacheInfo(DEFAULT, want_mass_query=True, priority=0)),
        (b"WantMassQuery: true\n", CacheInfo(DEFAULT, want_mass_query=False, priority=0)),
        (b"Priority: -1\n", CacheInfo(DEFAULT, want_mass_query=False, priority=-1)),
        (b"Priority: 40 (lower is better)\n", CacheInfo(DEFAULT, want_mass_query=False, priority=40)),
        (b"Priority: 40\nPriority: 41\n", CacheInfo(DEFAULT, want_mass_query=False, priority=41)),
    ],
)
def test_what_nix_accepts_is_read_as_nix_reads_it(data: bytes, expected: CacheInfo) -> None:
    assert CacheInfo.parse(data, DEFAULT) == expected


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"StoreDir: nix\n", b"StoreDir:\n", b"Priority: high\n", b"Priority:\n", b"Priority: 99999999999\n"],
)
def test_what_no_cache_says_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        CacheInfo.parse(data, DEFAULT)


@given(st.builds(CacheInfo, store_dirs, st.booleans(), st.integers(-999_999_999, 999_999_999)))
def test_what_is_formatted_is_read_back(info: CacheInfo) -> None:
    assert CacheInfo.parse(info.format(), DEFAULT) == info


_LINES = st.builds(
    b"%b:%b".__mod__, st.tuples(st.sampled_from([b"StoreDir", b"WantMassQuery", b"Priority"]), st.binary())
)


@given(st.binary() | st.lists(_LINES, max_size=4).map(b"\n".join))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        info = CacheInfo.parse(data, DEFAULT)
    except FormatError:
        return
    assert CacheInfo.parse(info.format(), DEFAULT) == info
