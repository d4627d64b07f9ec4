"""Clients that ask for everything, hold every answer to the truth, and every failure to the policy."""

import bz2
import json
import lzma
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import Final

from soak.paths import Path
from soak.policy import CUT, Asked, Kind, Origin, allowed
from soak.tally import Tally
from soak.world import PORT, World
from watched import Raw, ResponseAborted, decompressed

from harmonia_py.errors import FormatError
from harmonia_py.nix.base32 import encode
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import StoreDir

_STORE_DIR: Final = StoreDir.parse("/nix/store")
# More than any of the service's own limits for an answer to begin, but for `request_timeout`.
_ANSWER_SECONDS: Final = 90.0
# More than `rate_grace` of the settings (`world.py`), and what the first measurement begins late.
STILL_SECONDS: Final = 20.0
_OK: Final = frozenset({"200"})
_PARTIAL: Final = frozenset({"206"})
_DECOMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "none": bytes,
    "xz": lzma.decompress,
    "zstd": decompressed,
    "bzip2": bz2.decompress,
}
_STORE: Final = frozenset({Origin.STORE, Origin.DOOMED})


class Wrong(Exception):
    """An answer that the policy does not allow, or that is not the truth."""


@dataclass(frozen=True, slots=True)
class _Question:
    """Attributes: `what` is its name in the tally; `origin` and the others are those of `Asked`."""

    what: str
    target: str
    kind: Kind
    path: Path | None = None
    origin: Origin = Origin.SERVICE
    good: frozenset[str] = _OK
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: str
    headers: HTTPMessage
    body: bytes


class Client(threading.Thread):
    """One client, which uses a connection for as long as it lasts."""

    def __init__(self, world: World, tally: Tally, seed: str) -> None:
        super().__init__(name=f"client {seed}")
        self.chance = random.Random(seed)
        self.world = world
        self.tally = tally
        self._key = PublicKey.parse(world.key)
        self._raw: Raw | None = None

    def run(self) -> None:
        try:
            while not self.tally.stop.is_set():
                self.act()
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends the run
            self.tally.fail(f"{type(error).__name__}: {error}")
        finally:
            self.close()

    def act(self) -> None:
        (do,) = self.chance.choices(list(_ACTS), list(_ACTS.values()))
        do(self)
        # A client that computes; the machine is not for this test alone.
        time.sleep(self.chance.uniform(0.0, 0.03))

    def close(self) -> None:
        if self._raw is not None:
            self._raw.socket.close()
            self._raw = None

    # What it asks for

    def narinfo(self) -> None:
        self.narinfo_of(self.world.paths.choose(self.chance, to_download=False))

    def nar(self) -> None:
        self.fetch(self.world.paths.choose(self.chance))

    def fetch(self, path: Path) -> bool:
        """By way of the narinfo, as a real client does; whether it was served."""
        narinfo = self.narinfo_of(path)
        if narinfo is None:
            return False
        answer = self.ask(_of(path, f"nar {narinfo.compression}", f"/{narinfo.url}", Kind.NAR))
        if answer is None:
            return False
        _check_nar(path, narinfo.compression, answer.body)
        if answer.headers["ETag"] is not None and answer.headers["Accept-Ranges"] == "bytes":
            self._ranges_of(path, narinfo, answer)
        return True

    def plain_nar(self) -> None:
        """As Nix of old asks for it, without a NarHash in the URL."""
        path = self._in_store()
        answer = self.ask(_of(path, "nar as it is", f"/nar/{path.hash_part}.nar", Kind.NAR))
        if answer is not None:
            _check_nar(path, "none", answer.body)

    def part(self) -> None:
        path = self._in_store()
        start, stop = self._part_of(len(path.nar))
        header = f"Range: bytes={start}-{stop - 1}"
        question = _of(path, "range", f"/nar/{path.hash_part}.nar", Kind.NAR, header, good=_PARTIAL)
        answer = self.ask(question)
        if answer is None:
            return
        if answer.body != path.nar[start:stop]:
            raise Wrong(f"{question.target} {header}: other bytes")
        if answer.headers["Content-Range"] != f"bytes {start}-{stop - 1}/{len(path.nar)}":
            raise Wrong(f"{question.target} {header}: {answer.headers['Content-Range']}")

    def _ranges_of(self, path: Path, narinfo: NarInfo, whole: _Answer) -> None:
        """The rest of a download that was cut, when the file is still the same."""
        etag = whole.headers["ETag"]
        start, stop = self._part_of(len(whole.body))
        headers = (f"Range: bytes={start}-{stop - 1}", f"If-Range: {etag}")
        good = _PARTIAL | _OK
        answer = self.ask(_of(path, "range of a file", f"/{narinfo.url}", Kind.NAR, *headers, good=good))
        if answer is None:
            return
        if answer.status == "200":
            _check_nar(path, narinfo.compression, answer.body)
        elif answer.body != whole.body[start:stop]:
            raise Wrong(f"/{narinfo.url} {headers}: other bytes")

    def nowhere(self) -> None:
        hash_part = encode(self.chance.randbytes(20))
        self.ask(_Question("narinfo of nothing", f"/{hash_part}.narinfo", Kind.NARINFO, origin=Origin.NOWHERE))

    def leave(self) -> None:
        """In the middle of a download."""
        path = self.world.paths.choose(self.chance)
        narinfo = self.narinfo_of(path)
        if narinfo is None:
            return
        with self._connect(receive_buffer=4096) as raw:
            # Else who is quick enough to read all of it waits for more.
            raw.ask(f"/{narinfo.url}", "Connection: close")
            left = self.chance.randrange(100_000)
            while left > 0 and (data := raw.read(left)):
                left -= len(data)
            raw.leave()
        self.tally.answered("client that left", "left", 0.0, 0)

    def listing(self) -> None:
        path = self.chance.choice(self.world.paths.of(Origin.STORE))
        answer = self.ask(_of(path, "listing", f"/{path.hash_part}.ls", Kind.DOCUMENT, *self._coding()))
        if answer is not None and _without_offsets(json.loads(answer.body)["root"]) != path.listing:
            raise Wrong(f"/{path.hash_part}.ls is not what nix store ls says")

    def log(self) -> None:
        path = self.chance.choice([path for path in self.world.paths.of(Origin.STORE) if path.log is not None])
        assert path.log is not None
        derivation, log = path.log
        answer = self.ask(_of(path, "log", f"/log/{derivation}", Kind.DOCUMENT, *self._coding()))
        if answer is not None and answer.body != log:
            raise Wrong(f"/log/{derivation} is not what nix-store --read-log says")

    def page(self) -> None:
        path = self.chance.choice(self.world.paths.of(Origin.STORE))
        target = self.chance.choice((f"/path/{path.hash_part}", f"/serve/{path.hash_part}"))
        good = _OK | {"301", "302", "308"}
        self.ask(_of(path, "page", target, Kind.DOCUMENT, *self._coding(), good=good))

    def service(self) -> None:
        before = self.world.priorities
        target = self.chance.choice(("/nix-cache-info", "/health", "/version", "/metrics", "/"))
        answer = self.ask(_Question("service", target, Kind.DOCUMENT))
        assert answer is not None
        if target == "/nix-cache-info":
            priority = int(answer.body.decode().partition("Priority: ")[2])
            if priority not in before | self.world.priorities | self.world.recent_priorities(time.time()):
                raise Wrong(f"{target} has priority {priority}, not {self.world.priorities}")

    # How it asks

    def narinfo_of(self, path: Path) -> NarInfo | None:
        question = _of(path, "narinfo", f"/{path.hash_part}.narinfo", Kind.NARINFO, *self._coding())
        answer = self.ask(question)
        if answer is None:
            return None
        try:
            narinfo = NarInfo.parse(answer.body, _STORE_DIR)
        except FormatError as error:
            raise Wrong(f"{question.target}: {error}:\n{answer.body!r}") from error
        info = narinfo.path_info
        if (str(info.store_path), str(info.nar_hash), info.nar_size) != (path.store_path, path.nar_hash, len(path.nar)):
            raise Wrong(f"{question.target} is not the truth:\n{answer.body.decode()}")
        if not any(self._key.verify(info.fingerprint(_STORE_DIR), one) for one in info.signatures):
            raise Wrong(f"{question.target} is not signed by {self._key.name}:\n{answer.body.decode()}")
        return narinfo

    def ask(self, question: _Question) -> _Answer | None:
        """The answer, when it is a good one; None for others that the policy allows."""
        began = time.time()
        try:
            answer = self._exchange(question)
            outcome = answer.status
        except (ResponseAborted, ConnectionResetError, BrokenPipeError):
            self.close()
            answer, outcome = None, CUT
        except TimeoutError:
            self.close()
            raise Wrong(f"{question.target}: no answer, or no more of it, for {_ANSWER_SECONDS:g} s") from None
        ended = time.time()
        self.tally.answered(question.what, outcome, ended - began, 0 if answer is None else len(answer.body))
        self._judge(question, outcome, answer, began, ended)
        return answer if outcome in question.good else None

    def _judge(self, question: _Question, outcome: str, answer: _Answer | None, began: float, ended: float) -> None:
        collected = None if question.path is None else question.path.collected
        asked = Asked(question.origin, question.kind, began, ended, question.good, collected)
        fine = allowed(asked, self.world.weather)
        if outcome not in fine:
            doubts = ", ".join(doubt.name for doubt in self.world.weather.during(began, ended)) or "nothing"
            raise Wrong(
                f"{question.target} {question.headers}: {outcome} after {ended - began:.3f} s,"
                f" allowed: {', '.join(sorted(fine))}\n"
                f"  {question.what} of {question.path and question.path.store_path}, {question.origin.name},"
                f" collected {collected}, in doubt: {doubts}"
            )
        if answer is not None and outcome == "503" and answer.headers["Retry-After"] is None:
            raise Wrong(f"{question.target}: 503 without Retry-After")

    def _exchange(self, question: _Question) -> _Answer:
        if self._raw is None:
            self._raw = self._connect()
        raw = self._raw
        raw.ask(question.target, *question.headers)
        status, headers = raw.head()
        body = b"" if status == 304 else raw.body(headers)
        if headers["Connection"] == "close":
            self.close()
        if headers["Content-Encoding"] == "zstd":
            body = decompressed(body)
        return _Answer(str(status), headers, body)

    def _connect(self, *, receive_buffer: int | None = None) -> Raw:
        raw = Raw(PORT, receive_buffer=receive_buffer)
        raw.socket.settimeout(_ANSWER_SECONDS)
        return raw

    def _in_store(self) -> Path:
        while True:
            path = self.world.paths.choose(self.chance)
            if path.origin in _STORE:
                return path

    def _part_of(self, size: int) -> tuple[int, int]:
        start = self.chance.randrange(size)
        return start, self.chance.randrange(start, size) + 1

    def _coding(self) -> tuple[str, ...]:
        return ("Accept-Encoding: zstd",) if self.chance.random() < 0.3 else ()


_ACTS: Final[dict[Callable[[Client], None], float]] = {
    Client.narinfo: 30,
    Client.nar: 14,
    Client.plain_nar: 8,
    Client.part: 14,
    Client.nowhere: 10,
    Client.leave: 7,
    Client.listing: 5,
    Client.log: 4,
    Client.page: 4,
    Client.service: 4,
}


class SlowClient(Client):
    """Takes what it is sent slowly, or, one time in four, not at all."""

    def act(self) -> None:
        path = self._large()
        with self._connect(receive_buffer=65536) as raw:
            began = time.time()
            raw.ask(f"/nar/{path.hash_part}.nar")
            try:
                status, headers = raw.head()
                outcome = str(status)
                if outcome == "200":
                    outcome = (
                        self._stand_still(raw, headers)
                        if self.chance.random() < 0.25
                        else self._trickle(raw, headers, path)
                    )
            except ResponseAborted:
                outcome = CUT
            question = _of(path, "slow client", f"/nar/{path.hash_part}.nar", Kind.NAR, good=_OK | {"let go"})
            self.tally.answered(question.what, outcome, time.time() - began, 0)
            self._judge(question, outcome, None, began, time.time())

    def _large(self) -> Path:
        """What no socket buffer holds. One time in two it is doomed, and a collection comes in the middle."""
        while True:
            path = self.world.paths.choose(self.chance)
            if path.origin in _STORE and len(path.nar) > 4_000_000:
                return path

    def _trickle(self, raw: Raw, headers: HTTPMessage, path: Path) -> str:
        left, parts = int(headers["Content-Length"]), []
        while left and not self.tally.stop.is_set():
            data = raw.read(min(left, 50_000))
            if not data:
                raise ResponseAborted
            parts.append(data)
            left -= len(data)
            time.sleep(0.05)
        if not left and b"".join(parts) != path.nar:
            raise Wrong(f"{path.store_path}: other bytes for a slow client")
        return "200"

    def _stand_still(self, raw: Raw, headers: HTTPMessage) -> str:
        """Until the service must have let go of it. What the kernel had taken from it before still comes."""
        if self.tally.stop.wait(STILL_SECONDS):
            return "200"
        left = int(headers["Content-Length"])
        try:
            while left and (data := raw.read(left)):
                left -= len(data)
        except ResponseAborted:
            return "let go"
        return "let go" if left else "kept"


def _of(path: Path, what: str, target: str, kind: Kind, *headers: str, good: frozenset[str] = _OK) -> _Question:
    return _Question(what, target, kind, path, path.origin, good, headers)


def _check_nar(path: Path, compression: str, data: bytes) -> None:
    try:
        nar = _DECOMPRESS[compression](data)
    except Exception as error:
        raise Wrong(f"{path.store_path}: its {compression} is none: {error}") from error
    if nar != path.nar:
        raise Wrong(
            f"{path.store_path}: its {compression} of {len(data)} bytes has {Hash.of(nar)}, not {path.nar_hash}"
        )


def _without_offsets(tree: object) -> object:
    if not isinstance(tree, dict):
        return tree
    return {name: _without_offsets(value) for name, value in tree.items() if name != "narOffset"}
