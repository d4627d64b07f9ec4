import pytest
from wire_parsing import is_valid_path, run

from harmonia_py.errors import DaemonRefused, FormatError
from harmonia_py.nix import handshake, worker
from harmonia_py.nix.handshake import FEATURE_REALISATION_WITH_PATH, Frame, Session
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.realisation import DrvOutput
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.nix.wire import write_string, write_strings, write_u64

STORE_DIR = StoreDir.parse("/nix/store")
PATH = StorePath.parse("7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-hello-2.12")
LAST = write_u64(Frame.LAST)
NEW = Session(38, frozenset({FEATURE_REALISATION_WITH_PATH}), "2.35.0", trusted=None)
OLD_KEY = DrvOutput(Hash.of(b""), "out")
NEW_KEY = DrvOutput(StorePath.parse("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv"), "out")


def error(message: str, traces: int = 0) -> bytes:
    return b"".join(
        (
            write_u64(Frame.ERROR),
            *(write_string("Error"), write_u64(0), write_string("Error"), write_string(message)),
            *(write_u64(0), write_u64(traces), (write_u64(0) + write_string("while trying")) * traces),
        )
    )


# The handshake


def test_the_handshake_with_nix_2_8_is_byte_by_byte_what_was_recorded() -> None:
    greeting = handshake.greet()
    assert greeting.request == bytes.fromhex("6378696e00000000 2601000000000000")
    assert run(greeting.reply, bytes.fromhex("6f69786400000000 2201000000000000")) == 34
    introduction = handshake.introduce(34)
    assert introduction.request == bytes(16)
    reply = bytes.fromhex("0500000000000000 322e382e30000000 73746c6100000000")
    assert run(introduction.reply, reply) == Session(34, frozenset(), "2.8.0", trusted=None)


def test_the_version_spoken_is_the_smaller_one() -> None:
    reply = bytes.fromhex("6f69786400000000") + write_u64(1 << 8 | 99)
    assert run(handshake.greet().reply, reply) == 38


@pytest.mark.parametrize("version", [1 << 8 | 33, 2 << 8 | 38, 0, 2**64 - 1])
def test_a_version_we_do_not_speak_is_an_error(version: int) -> None:
    with pytest.raises(FormatError, match=r"version \d+\.\d+ of the worker protocol"):
        run(handshake.greet().reply, bytes.fromhex("6f69786400000000") + write_u64(version))


def test_features_are_exchanged_from_1_38_on_and_unknown_ones_are_left_out() -> None:
    introduction = handshake.introduce(38)
    assert introduction.request == write_strings([FEATURE_REALISATION_WITH_PATH]) + bytes(16)
    features = write_strings([FEATURE_REALISATION_WITH_PATH, "delete-dead-specific-referrers"])
    session = run(introduction.reply, features + write_string("2.35.0") + write_u64(2) + LAST)
    assert session == Session(38, frozenset({FEATURE_REALISATION_WITH_PATH}), "2.35.0", trusted=False)


@pytest.mark.parametrize(("word", "trusted"), [(0, None), (1, True), (2, False), (3, None)])
def test_the_daemon_says_from_1_35_on_whether_it_trusts_us(word: int, *, trusted: bool | None) -> None:
    introduction = handshake.introduce(35)
    assert introduction.request == bytes(16)
    assert run(introduction.reply, write_string("2.93.0") + write_u64(word) + LAST).trusted is trusted


def test_a_daemon_may_refuse_us_in_the_handshake() -> None:
    with pytest.raises(DaemonRefused, match="not allowed"):
        run(handshake.introduce(34).reply, write_string("2.8.0") + error("you are not allowed"))


@pytest.mark.parametrize(
    ("minor", "version", "knows_old"),
    [(34, "2.8.0", True), (35, "2.18.1", True), (38, "2.34.8pre", True), (38, "2.35.0", False), (35, "2.93.0", False),
     (35, "unknown", False), (38, "3.0", False)],
)  # fmt: skip
def test_realisations_are_asked_only_of_daemons_that_keep_step(minor: int, version: str, *, knows_old: bool) -> None:
    session = Session(minor, frozenset(), version, trusted=None)
    assert session.knows_realisation(OLD_KEY) is knows_old
    assert not session.knows_realisation(NEW_KEY)


def test_the_feature_decides_which_keys_a_daemon_knows() -> None:
    assert NEW.knows_realisation(NEW_KEY)
    assert not NEW.knows_realisation(OLD_KEY)


# The log before the reply


def test_all_kinds_of_log_messages_are_skipped() -> None:
    fields = write_u64(2) + write_u64(0) + write_u64(7) + write_u64(1) + write_string("text")
    log = b"".join(
        (
            *(write_u64(Frame.NEXT), write_string("a line\n")),
            *(write_u64(Frame.START_ACTIVITY), write_u64(1), write_u64(3), write_u64(105)),
            *(write_string("building"), fields, write_u64(0)),
            *(write_u64(Frame.RESULT), write_u64(1), write_u64(101), fields),
            *(write_u64(Frame.STOP_ACTIVITY), write_u64(1)),
        )
    )
    assert run(is_valid_path(PATH, STORE_DIR).reply, log + LAST + write_u64(1)) is True


@pytest.mark.parametrize("word", [Frame.READ, Frame.WRITE, 0, 0xFFFFFFFF])
def test_an_unknown_or_misplaced_frame_is_an_error(word: int) -> None:
    with pytest.raises(FormatError, match="neither a log message nor a reply"):
        run(is_valid_path(PATH, STORE_DIR).reply, write_u64(word) + bytes(64))


def test_an_error_is_told_without_colours_and_control_characters() -> None:
    message = "path '\x1b[35;1m/nix/store/x\x1b[0m' \x07is \x1b]8;;http://x\x1b\\bad\x1b]8;;\x07\r\n\x9b"
    with pytest.raises(DaemonRefused) as refusal:
        run(is_valid_path(PATH, STORE_DIR).reply, error(message, traces=3))
    assert str(refusal.value) == "path '/nix/store/x' is bad"


def test_the_recorded_error_of_nix_2_8_parses() -> None:
    recorded = bytes.fromhex(
        "7074786300000000 0500000000000000 4572726f72000000 0000000000000000 0500000000000000 4572726f72000000"
        "1100000000000000 696e76616c69642068617368207061727400000000000000 0000000000000000 0000000000000000"
    )
    with pytest.raises(DaemonRefused, match=r"^invalid hash part$"):
        run(worker.query_path_from_hash_part(PATH.hash_part, STORE_DIR).reply, recorded)
