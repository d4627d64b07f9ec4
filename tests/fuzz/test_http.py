"""Requests made from docs/reference/openapi.yaml, and what becomes of them on the way, against the real server.

    HARMONIA_PY_FUZZ_REQUESTS=100000 HARMONIA_PY_FUZZ_SEED=1 make test-slow ARGS="tests/fuzz -s"

No request makes the server fail, say more than it should, or keep anything. A failure names its round: the requests of
a round follow from the seed and its number alone.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from pathlib import Path
from random import Random
from threading import Event
from typing import Final

import pytest
from described import Operation, read_operations
from exchange import Answer, Exchange, parse_head
from lab import Lab
from mutations import Fuzzer, Request
from server import Server, settings_of
from watched import Held, await_return

REQUESTS: Final = int(os.environ.get("HARMONIA_PY_FUZZ_REQUESTS", "20000"))
SEED: Final = int(os.environ.get("HARMONIA_PY_FUZZ_SEED", "20240229"))
CLIENTS: Final = 4
BATCH: Final = 48
# Before anything is measured: every module is there, and every cache has something in it.
WARM_UP: Final = 4000
# Pools of threads grow up to their bounds as chance has it, and so do connections to the nix-daemon.
THREADS: Final = 24
DESCRIPTORS: Final = 6
# What a client's request may be told.
FINE: Final = frozenset({200, 206, 302, 304, 400, 401, 404, 405, 408, 411, 412, 413, 414, 416, 417, 431, 505})


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Its store dir is `/nix/store`, so that no answer has a reason to name the place where the files are."""
    root = tmp_path / "secret-place"
    root.mkdir()
    with Lab(root, chroot=True) as lab:
        lab.closure = lab.build()
        lab.start_daemon()
        yield lab


def known_values(server: Server, lab: Lab) -> dict[str, Sequence[str]]:
    """Values of parameters that there are."""
    closure = lab.closure
    paths = (closure.top, closure.input0, closure.input1, closure.input2, closure.derivation)
    hash_parts = [str(path.hash_part) for path in paths]
    nars = [nar_url(server, hash_part).removeprefix("/nar/") for hash_part in hash_parts]
    nars += [f"{hash_part}.nar{suffix}" for hash_part in hash_parts for suffix in ("", ".zst")]
    etags = [server.get(f"/nar/{file_name}").headers["ETag"] for file_name in nars]
    top = hash_parts[0]
    places = (
        "",
        "/",
        "/foobar",
        "/self",
        "/program",
        "/reference-to-input-2",
        "/reference-to-input-2/input0",
        "/absent",
    )
    return {
        "hash_part": hash_parts,
        "hash": hash_parts,
        "file_name": nars,
        "derivation": [str(closure.derivation), str(closure.derivation.hash_part)],
        "output": ["out", f"sha256:{'0' * 64}!out"],
        "place": [f"{top}{place}" for place in places],
        "q": ["dependencies", top, str(closure.top)],
        "Range": ["bytes=0-0", "bytes=1-", "bytes=-7", "bytes=0-99", "bytes=1-1000", "bytes=99999-"],
        "If-None-Match": ["*", *etags],
        "If-Range": etags,
    }


def nar_url(server: Server, hash_part: str) -> str:
    narinfo = server.get(f"/{hash_part}.narinfo").body.decode()
    return "/" + next(line for line in narinfo.splitlines() if line.startswith("URL: ")).removeprefix("URL: ")


@dataclass
class Campaign:
    """Rounds of requests against a server, each from the seed and its number.

    Attributes:
        secrets: bytes that no answer may have.
        statuses: how many answers had which status; 0 for the end of the connection without one.
    """

    port: int
    fuzzer: Fuzzer
    secrets: Sequence[bytes]
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def run(self, rounds: Iterator[int], requests: int) -> int:
        """Make at least so many requests, and return how many it were."""
        enough = sum(self.statuses.values()) + requests
        failed = Event()

        def work() -> Counter[int]:
            mine: Counter[int] = Counter()
            while not failed.is_set() and sum(self.statuses.values()) < enough:
                number = next(rounds)
                try:
                    told = self._round(Random(f"{SEED}/{number}"))
                    mine += told
                    self.statuses.update(told)
                except Exception as error:  # noqa: BLE001  # whatever it is, it is told with its round
                    self.wrong.append(f"seed {SEED}, round {number}: {type(error).__name__}: {error}")
                    failed.set()
            return mine

        with ThreadPoolExecutor(CLIENTS) as pool:
            done = [pool.submit(work) for _ in range(CLIENTS)]
            return sum(sum(one.result().values()) for one in done)

    def _round(self, random: Random) -> Counter[int]:
        kind = random.random()
        if kind < 0.25:
            return self._garbled(self.fuzzer.garbled(random))
        if kind < 0.5:
            return self._cut(self.fuzzer.cut(random), leaves=random.random() < 0.2)
        requests = self.fuzzer.batch(random, BATCH)
        return self._converse(requests, at_once=BATCH if kind < 0.75 else 1)

    def _converse(self, requests: Sequence[Request], *, at_once: int) -> Counter[int]:
        """Send them, so many at once; what a server that closes has not answered, once more to a new connection."""
        told: Counter[int] = Counter()
        while requests:
            with Exchange(self.port) as exchange:
                while requests and not exchange.is_over:
                    some = requests[:at_once]
                    answers = exchange.ask(b"".join(one.data for one in some), [one.method for one in some])
                    if at_once > 1 and answers and answers[-1].status == 400 and answers[-1].closes:
                        # What came with a request that is none may be lost: which one it was is asked one by one.
                        at_once = 1
                        break
                    for request, answer in zip(some, answers, strict=False):
                        check(request.data, answer, self.secrets, request.operation)
                        told[answer.status] += 1
                    assert answers, f"no answer: {some[0].data!r}"
                    requests = requests[len(answers) :]
        return told

    def _garbled(self, data: bytes) -> Counter[int]:
        with Exchange(self.port) as exchange:
            answers = exchange.ask(data, ["GET"])
            for answer in answers:
                check(data, answer, self.secrets, None)
            return Counter(answer.status for answer in answers) or Counter([0])

    def _cut(self, data: bytes, *, leaves: bool) -> Counter[int]:
        """What is not whole may have no answer; what there is must be one."""
        with Exchange(self.port) as exchange:
            received = exchange.last(data, leaves=leaves)
        if b"\r\n\r\n" not in received:
            return Counter([0])
        head, _, rest = received.partition(b"\r\n\r\n")
        status, headers = parse_head(head + b"\r\n")
        check(data, Answer(status, head, headers, rest), self.secrets, None, whole=False)
        return Counter([status])


def check(
    data: bytes, answer: Answer, secrets: Sequence[bytes], operation: Operation | None, *, whole: bool = True
) -> None:
    """Whether this may be told, and as described where the request was."""
    said = complaint(answer, secrets, operation, whole=whole and not data.startswith(b"HEAD "))
    assert not said, f"{said}: {data[:3000]!r} got {answer.head!r} {answer.body[:500]!r}"


def complaint(answer: Answer, secrets: Sequence[bytes], operation: Operation | None, *, whole: bool) -> str:
    if answer.status not in FINE | {100}:
        return "a status that is not for clients"
    told = [secret for secret in secrets if secret in answer.body or secret in answer.head]
    if told:
        return f"it names {told}"
    is_page = answer.headers.get("content-type", "").startswith("text/html")
    if "fuzz" in answer.headers or (is_page and b"<fuzz" in answer.body):
        return "what the client made up"
    if answer.status >= 400 and (said := complaint_of_error(answer, whole=whole)):
        return said
    return operation.complaint(answer.status, answer.headers) if operation is not None else ""


def complaint_of_error(answer: Answer, *, whole: bool) -> str:
    if whole and answer.body != f"{HTTPStatus(answer.status).phrase}\n".encode():
        return "an error that says more than its status"
    if answer.headers.get("cache-control") != "no-store":
        return "an error that may be stored"
    return "405 without Allow" if answer.status == 405 and "GET" not in answer.headers.get("allow", "") else ""


def still_serves(server: Server, before: Mapping[str, bytes]) -> None:
    for target, body in before.items():
        answer = server.get(target)
        assert answer.status == 200
        if target.endswith(".narinfo"):
            # Once its NAR is compressed, it says how large it is.
            assert set(body.splitlines()) <= set(answer.body.splitlines())
        else:
            assert answer.body == body


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_request_makes_it_fail_tell_or_keep_anything(lab: Lab, tmp_path: Path) -> None:
    top = str(lab.closure.top.hash_part)
    with Server(tmp_path, lab.env, settings_of(lab, lab.secret_key("key-1"))) as server:
        right = {f"/nar/{top}.nar": lab.dump(lab.closure.top)}
        still_serves(server, right)
        right |= {target: server.get(target).body for target in (f"/{top}.narinfo", nar_url(server, top), f"/{top}.ls")}
        fuzzer = Fuzzer(read_operations(), known_values(server, lab))
        secrets = (str(tmp_path).encode(), b"Traceback", b"site-packages", b"aiohttp", b"/usr/lib/python")
        campaign = Campaign(server.port, fuzzer, secrets)
        rounds = count()
        campaign.run(rounds, min(WARM_UP, REQUESTS))
        assert not campaign.wrong, "\n".join(campaign.wrong)
        workers = server.processes()[1:]
        before = {worker: Held.by(worker) for worker in workers}
        began = time.monotonic()
        made = campaign.run(rounds, REQUESTS)
        seconds = time.monotonic() - began
        print(f"seed {SEED}: {made} requests in {seconds:.1f} s, {made / seconds:.0f}/s: {dict(campaign.statuses)}")
        assert not campaign.wrong, "\n".join(campaign.wrong)
        for worker in workers:
            after = await_return(worker, before[worker], descriptors=DESCRIPTORS, threads=THREADS)
            print(f"worker {worker}: {said(before[worker])} before, {said(after)} after")
        assert server.processes()[1:] == workers
        still_serves(server, right)
        complain_of_log(server.output())


def said(held: Held) -> str:
    return f"{len(held.descriptors)} descriptors, {held.threads} threads, {held.memory / 2**20:.1f} MiB"


def complain_of_log(log: str) -> None:
    assert "Traceback" not in log
    assert "unforeseen" not in log
    assert not re.findall(r"^\S+ error:.*", log, re.MULTILINE)[:5]
    # A request's line is one line of the log, and does nothing to a terminal.
    assert not set(map(ord, log)) & ({*range(32), 0x7F} - {ord("\n")})
    strange = [line for line in log.splitlines() if "Fuzz: x" in line and not re.match(r"\S+Z info: ", line)]
    assert not strange[:5]
