import contextlib
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_parsing import is_valid_path, run

from harmonia_py.errors import DaemonRefused, FormatError
from harmonia_py.nix import handshake, worker
from harmonia_py.nix.content_address import ContentAddress
from harmonia_py.nix.handshake import FEATURE_REALISATION_WITH_PATH, Exchange, Frame, Session
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo, sorted_references
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import Signature
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.nix.wire import write_string, write_strings, write_u64

STORE_DIR = StoreDir.parse("/nix/store")
PATH = StorePath.parse("7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-hello-2.12")
DERIVATION = StorePath.parse("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv")
LAST = write_u64(Frame.LAST)
OLD = Session(38, frozenset(), "2.34.1", trusted=None)
NEW = Session(38, frozenset({FEATURE_REALISATION_WITH_PATH}), "2.35.0", trusted=None)
OLD_KEY = DrvOutput(Hash.of(b""), "out")
NEW_KEY = DrvOutput(DERIVATION, "out")


def error(message: str, traces: int = 0) -> bytes:
    return b"".join(
        (
            write_u64(Frame.ERROR),
            *(write_string("Error"), write_u64(0), write_string("Error"), write_string(message)),
            *(write_u64(0), write_u64(traces), (write_u64(0) + write_string("while trying")) * traces),
        )
    )


hash_parts = st.text("0123456789abcdfghijklmnpqrsvwxyz", min_size=32, max_size=32)
store_paths = st.builds(
    lambda hash_part, name: StorePath.parse(f"{hash_part}-{name}"),
    hash_parts,
    st.text(string.ascii_letters + string.digits + "+_?=-", min_size=1, max_size=20),
)
path_infos = st.builds(
    PathInfo,
    store_path=store_paths,
    nar_hash=st.builds(Hash.of, st.binary()),
    nar_size=st.integers(0, 2**63 - 1),
    references=st.lists(store_paths, max_size=5).map(sorted_references),
    deriver=st.none() | store_paths,
    signatures=st.sets(st.builds(Signature, st.just("key-1"), st.binary(min_size=64, max_size=64)), max_size=2).map(
        lambda signatures: tuple(sorted(signatures))
    ),
    ca=st.none() | st.just(ContentAddress.parse(f"fixed:r:{Hash.of(b'')}")),
    registration_time=st.integers(0, 2**63 - 1),
    ultimate=st.booleans(),
)


@given(path_infos)
def test_a_path_info_reads_as_it_is_written(info: PathInfo) -> None:
    """`add_to_store_nar` writes the path, the path info, and two booleans after the operation."""
    request = worker.add_to_store_nar(info, STORE_DIR).request
    key = write_u64(39) + write_string(STORE_DIR.join(info.store_path))
    assert request.startswith(key)
    assert request.endswith(bytes(16))
    written = request.removeprefix(key)[:-16]
    reply = LAST + write_u64(1) + written
    assert run(worker.query_path_info(info.store_path, STORE_DIR).reply, reply) == info


def test_garbage_among_the_signatures_is_dropped() -> None:
    good = str(Signature("key-1", bytes(64)))
    reply = b"".join(
        (
            *(
                LAST,
                write_u64(1),
                write_string(""),
                write_string("00" * 32),
                write_u64(0),
                write_u64(1),
                write_u64(120),
            ),
            *(write_u64(0), write_strings(["garbage", good, "sig"]), write_string("")),
        )
    )
    info = run(worker.query_path_info(PATH, STORE_DIR).reply, reply)
    assert info is not None
    assert info.signatures == (Signature("key-1", bytes(64)),)


def test_an_error_that_says_not_valid_means_absent_as_in_nix_2_33() -> None:
    reply = error(f"path '\x1b[35;1m/nix/store/{PATH}\x1b[0m' is not valid")
    assert run(worker.query_path_info(PATH, STORE_DIR).reply, reply) is None


def test_any_other_error_of_a_path_info_is_an_error() -> None:
    with pytest.raises(DaemonRefused, match="disk I/O"):
        run(worker.query_path_info(PATH, STORE_DIR).reply, error("disk I/O error"))


def test_a_path_outside_the_store_dir_is_an_error() -> None:
    reply = LAST + write_string(f"/other/store/{PATH}")
    with pytest.raises(FormatError, match="store directory"):
        run(worker.query_path_from_hash_part(PATH.hash_part, STORE_DIR).reply, reply)


def test_paths_come_as_sets() -> None:
    reply = LAST + write_strings([STORE_DIR.join(PATH)])
    for exchange in (
        worker.query_all_valid_paths(STORE_DIR),
        worker.query_referrers(PATH, STORE_DIR),
    ):
        assert run(exchange.reply, reply) == [PATH]


def test_realisations_by_hash_are_json() -> None:
    realisation = Realisation(id=OLD_KEY, out_path=PATH, signatures=(Signature("key-1", bytes(64)),))
    exchange = worker.query_realisation(OLD_KEY, OLD, STORE_DIR)
    assert exchange.request == write_u64(43) + write_string(f"sha256:{Hash.of(b'').base16}!out")
    assert run(exchange.reply, LAST + write_strings([realisation.format_old().decode()])) == realisation
    assert run(worker.query_realisation(OLD_KEY, OLD, STORE_DIR).reply, LAST + write_u64(0)) is None


def test_realisations_by_path_are_fields() -> None:
    exchange = worker.query_realisation(NEW_KEY, NEW, STORE_DIR)
    assert exchange.request == write_u64(43) + write_string(STORE_DIR.join(DERIVATION)) + write_string("out")
    signature = Signature("key-1", bytes(64))
    reply = LAST + write_u64(1) + write_string(STORE_DIR.join(PATH)) + write_strings([str(signature), "garbage"])
    assert run(exchange.reply, reply) == Realisation(id=NEW_KEY, out_path=PATH, signatures=(signature,))
    assert run(worker.query_realisation(NEW_KEY, NEW, STORE_DIR).reply, LAST + write_u64(0)) is None


def test_a_temporary_root_is_confirmed_with_a_one() -> None:
    run(worker.add_temp_root(PATH, STORE_DIR).reply, LAST + write_u64(1))
    with pytest.raises(FormatError, match="confirms"):
        run(worker.add_temp_root(PATH, STORE_DIR).reply, LAST + write_u64(0))


def test_options_are_twelve_numbers_and_the_overrides() -> None:
    exchange = worker.set_options()
    assert exchange.request[:8] == write_u64(19)
    assert exchange.request[8 + 12 * 8 :].startswith(write_u64(2) + write_string("narinfo-cache-negative-ttl"))
    run(exchange.reply, LAST)


def _exchanges() -> list[Exchange[Any]]:
    return [
        handshake.greet(),
        handshake.introduce(34),
        handshake.introduce(38),
        worker.set_options(),
        is_valid_path(PATH, STORE_DIR),
        worker.query_path_from_hash_part(PATH.hash_part, STORE_DIR),
        worker.query_path_info(PATH, STORE_DIR),
        worker.query_all_valid_paths(STORE_DIR),
        worker.query_realisation(OLD_KEY, OLD, STORE_DIR),
        worker.query_realisation(NEW_KEY, NEW, STORE_DIR),
        worker.add_temp_root(PATH, STORE_DIR),
    ]


# Bytes that get past the first words more often than random ones would.
plausible = st.lists(
    st.one_of(
        st.sampled_from([LAST, *map(write_u64, Frame), write_u64(0), write_u64(1), write_string("Error")]),
        st.builds(lambda path: write_string(STORE_DIR.join(path)), store_paths),
        st.builds(write_string, st.text(max_size=10)),
        st.builds(write_u64, st.integers(0, 2**64 - 1)),
        st.just(write_string("00" * 32)),
        st.binary(max_size=16),
    ),
    max_size=16,
).map(b"".join)


@given(plausible | plausible.map(lambda data: LAST + data))
def test_any_bytes_parse_or_raise_format_error_or_are_the_daemons_own_error(data: bytes) -> None:
    for exchange in _exchanges():
        with contextlib.suppress(FormatError, DaemonRefused):
            run(exchange.reply, data)
