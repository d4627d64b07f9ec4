"""The worker protocol: the requests to a nix-daemon, and the parsers of its answers.

Source: `src/libstore/worker-protocol.cc`, `remote-store.cc` and `daemon.cc` of Nix; "Nix daemon protocol" in the Nix
manual. A conversation begins with the exchanges of `handshake.py`, then `set_options`; then it is one operation after
the other. Malformed replies raise FormatError; DaemonRefused is the daemon's own error.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Final, TypeVar

from harmonia_py.errors import DaemonRefused, FormatError
from harmonia_py.nix.content_address import parse_content_address
from harmonia_py.nix.handshake import Exchange, Session, read_log
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import MAX_NAR_SIZE, PathInfo, sorted_references
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import parse_signatures
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.nix.wire import (
    MAX_COLLECTION_SIZE,
    Parser,
    read_bool,
    read_list,
    read_string,
    read_strings,
    read_u64,
    write_string,
    write_strings,
    write_u64,
)

Value = TypeVar("Value")

# All paths of a large build farm's store, in one reply.
_MAX_STORE_SIZE: Final = 20_000_000


class Operation(IntEnum):
    """The first word of a request."""

    QUERY_REFERRERS = 6
    ADD_TEMP_ROOT = 11
    SET_OPTIONS = 19
    QUERY_ALL_VALID_PATHS = 23
    QUERY_PATH_INFO = 26
    QUERY_PATH_FROM_HASH_PART = 29
    ADD_TO_STORE_NAR = 39
    QUERY_REALISATION = 43


def set_options() -> Exchange[None]:
    """Ask for errors only, for nothing from substituters, and for facts as they are now.

    A daemon's process remembers path infos, by default for 30 days: without the last a new signature, or a path deleted
    and built anew, would go unseen. A daemon that does not trust us ignores the overrides.
    """
    keep_failed = keep_going = try_fallback = verbosity = 0
    max_build_jobs, max_silent_time, use_build_hook, verbose_build, build_cores = 1, 0, 1, 0, 1
    use_substitutes = 0
    words = (
        *(keep_failed, keep_going, try_fallback, verbosity, max_build_jobs, max_silent_time, use_build_hook),
        *(verbose_build, 0, 0, build_cores, use_substitutes),
    )
    overrides = {"narinfo-cache-negative-ttl": "0", "narinfo-cache-positive-ttl": "0"}
    pairs = [write_string(text) for pair in overrides.items() for text in pair]
    payload = b"".join(map(write_u64, words)) + write_u64(len(overrides)) + b"".join(pairs)
    return _operation(Operation.SET_OPTIONS, payload, _read_nothing)


def query_path_from_hash_part(hash_part: HashPart, store_dir: StoreDir) -> Exchange[StorePath | None]:
    """The valid path with this hash part. A daemon's process never answers this from memory."""
    return _operation(
        Operation.QUERY_PATH_FROM_HASH_PART, write_string(hash_part), lambda: _read_optional_path(store_dir)
    )


def query_path_info(store_path: StorePath, store_dir: StoreDir) -> Exchange[PathInfo | None]:
    """The path info of `store_path`; None when it is not valid."""
    request = write_u64(Operation.QUERY_PATH_INFO) + write_string(store_dir.join(store_path))
    return Exchange(request, _read_path_info_reply(store_path, store_dir))


def _read_path_info_reply(store_path: StorePath, store_dir: StoreDir) -> Parser[PathInfo | None]:
    try:
        yield from read_log()
    except DaemonRefused as error:
        # Nix 2.32.0 to 2.32.5 and 2.33.0 to 2.33.2 say so in an error; their own client reads it like this, too.
        if "is not valid" in str(error):
            return None
        raise
    if not (yield from read_bool()):
        return None
    return (yield from read_path_info(store_path, store_dir))


def read_path_info(store_path: StorePath, store_dir: StoreDir) -> Parser[PathInfo]:
    """An `UnkeyedValidPathInfo`."""
    deriver = yield from _read_optional_path(store_dir)
    nar_hash = Hash.parse((yield from read_string()), "sha256")
    references = yield from _read_paths(store_dir)
    registration_time = yield from read_u64()
    nar_size = yield from read_u64()
    if nar_size > MAX_NAR_SIZE:
        raise FormatError("no NAR is that long")
    ultimate = yield from read_bool()
    signatures = parse_signatures((yield from read_strings()))
    ca = yield from read_string()
    return PathInfo(
        store_path=store_path,
        nar_hash=nar_hash,
        nar_size=nar_size,
        references=sorted_references(references),
        deriver=deriver,
        signatures=signatures,
        ca=parse_content_address(ca) if ca else None,
        registration_time=registration_time,
        ultimate=ultimate,
    )


def query_all_valid_paths(store_dir: StoreDir) -> Exchange[list[StorePath]]:
    """Every valid path, in one reply."""
    return _operation(Operation.QUERY_ALL_VALID_PATHS, b"", lambda: _read_paths(store_dir, _MAX_STORE_SIZE))


def query_referrers(store_path: StorePath, store_dir: StoreDir) -> Exchange[list[StorePath]]:
    """The valid paths that refer to `store_path`; none for a path that is not valid."""
    payload = write_string(store_dir.join(store_path))
    return _operation(Operation.QUERY_REFERRERS, payload, lambda: _read_paths(store_dir, _MAX_STORE_SIZE))


def query_realisation(output: DrvOutput, session: Session, store_dir: StoreDir) -> Exchange[Realisation | None]:
    """The realisation of `output`. Only for a session that `knows_realisation(output)`: others would lose step."""
    assert session.knows_realisation(output)
    if isinstance(output.derivation, StorePath):
        payload = write_string(store_dir.join(output.derivation)) + write_string(output.output_name)
        return _operation(Operation.QUERY_REALISATION, payload, lambda: _read_new_realisation(output, store_dir))
    return _operation(Operation.QUERY_REALISATION, write_string(str(output)), _read_old_realisation)


def _read_old_realisation() -> Parser[Realisation | None]:
    texts = yield from read_strings()
    return Realisation.parse_old(texts[0]) if texts else None


def _read_new_realisation(output: DrvOutput, store_dir: StoreDir) -> Parser[Realisation | None]:
    if not (yield from read_bool()):
        return None
    out_path = store_dir.parse_path((yield from read_string()))
    return Realisation(id=output, out_path=out_path, signatures=parse_signatures((yield from read_strings())))


def add_temp_root(store_path: StorePath, store_dir: StoreDir) -> Exchange[None]:
    """Keep `store_path` from being collected until this connection closes, be it valid or not."""
    return _operation(Operation.ADD_TEMP_ROOT, write_string(store_dir.join(store_path)), _read_one)


def add_to_store_nar(info: PathInfo, store_dir: StoreDir) -> Exchange[None]:
    """Add a path. `wire.write_frames` of its NAR and `wire.END_OF_FRAMES` follow the request.

    The end must be sent even when the daemon has failed: it reads all frames before it tells the error.
    """
    repair = dont_check_signatures = 0
    payload = b"".join(
        (
            write_string(store_dir.join(info.store_path)),
            write_string(store_dir.join(info.deriver) if info.deriver else ""),
            write_string(info.nar_hash.base16),
            write_strings([store_dir.join(reference) for reference in info.references]),
            write_u64(info.registration_time),
            write_u64(info.nar_size),
            write_u64(info.ultimate),
            write_strings([str(signature) for signature in info.signatures]),
            write_string(str(info.ca) if info.ca else ""),
            write_u64(repair),
            write_u64(dont_check_signatures),
        )
    )
    return _operation(Operation.ADD_TO_STORE_NAR, payload, _read_nothing)


def _operation(operation: Operation, payload: bytes, read: Callable[[], Parser[Value]]) -> Exchange[Value]:
    return Exchange(write_u64(operation) + payload, _read_reply(read))


def _read_reply(read: Callable[[], Parser[Value]]) -> Parser[Value]:
    yield from read_log()
    return (yield from read())


def _read_nothing() -> Parser[None]:
    return
    yield  # a generator, though it reads nothing


def _read_one() -> Parser[None]:
    if (yield from read_u64()) != 1:
        raise FormatError("the daemon confirms with something other than 1")


def _read_optional_path(store_dir: StoreDir) -> Parser[StorePath | None]:
    text = yield from read_string()
    return store_dir.parse_path(text) if text else None


def _read_paths(store_dir: StoreDir, limit: int = MAX_COLLECTION_SIZE) -> Parser[list[StorePath]]:
    return read_list(lambda: _read_path(store_dir), limit)


def _read_path(store_dir: StoreDir) -> Parser[StorePath]:
    return store_dir.parse_path((yield from read_string()))
