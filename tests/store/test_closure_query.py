"""A closure as rows of a store's database, of which few are parsed."""

import pytest

from harmonia_py.errors import DaemonProtocolError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.store.closure_query import ClosureRows

STORE = StoreDir("/nix/store")
PATHS = {number: StorePath.parse(f"{str(number) * 32}-{name}") for number, name in enumerate("abcd", start=1)}
HASH = f"sha256:{'0' * 64}"


def closure(*edges: tuple[int, int], nar_hash: str = HASH) -> ClosureRows:
    """The closure of `a` to `c`, with their references by number; what may be outside of it is `d`."""
    rows = {number: (nar_hash, 0, None, 100 * number, 1, None, None) for number in (1, 2, 3)}
    return ClosureRows(PATHS, rows, edges, STORE)


def test_references_come_first_also_where_the_path_between_two_is_left_out() -> None:
    """A path could have been published before what its references refer to."""
    found = closure((1, 2), (2, 3), (3, 3), (2, 4))
    assert found.sizes == {PATHS[1]: 100, PATHS[2]: 200, PATHS[3]: 300}
    first, last = found.infos([PATHS[1], PATHS[3]])
    assert (first.store_path, first.references, first.nar_size) == (PATHS[3], (PATHS[3],), 300)
    assert (last.store_path, last.references, last.nar_hash) == (PATHS[1], (PATHS[2],), Hash.parse(HASH))
    assert [info.store_path for info in found.infos(PATHS.values())] == [PATHS[3], PATHS[2], PATHS[1]]
    assert found.all_infos()[PATHS[2]].references == (PATHS[3], PATHS[4])


def test_a_row_that_does_not_parse_is_told_when_it_is_needed() -> None:
    found = closure(nar_hash="sha256:x")
    assert found.infos([]) == []
    with pytest.raises(DaemonProtocolError, match="a row does not parse"):
        found.infos([PATHS[1]])
