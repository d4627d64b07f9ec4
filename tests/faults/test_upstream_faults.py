"""Each fault that the policy names, as a client meets it: what it hears, what is kept, what it gets afterwards."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import pytest
from fault_upstream import (
    COMPRESS,
    OTHER_KEY,
    FaultUpstream,
    Package,
    Speak,
    body,
    hang,
    package,
    refuse,
    signed,
    status,
)
from mirrors import kept, leftovers, mirror_of, settle
from msgspec.structs import replace
from serving import Answer, Served

from harmonia_py.mirror.mirror import Mirror
from harmonia_py.upstream.addresses import Address

ONE = package(size=1_500_000)
MAYBE, NOT_FOUND, OK = HTTPStatus.BAD_GATEWAY, HTTPStatus.NOT_FOUND, HTTPStatus.OK
INSIDE = "127.0.0.2"


@dataclass
class Front:
    """A mirror behind the real web server."""

    mirror: Mirror
    served: Served

    async def narinfo(self, one: Package) -> HTTPStatus:
        return HTTPStatus((await self.served.get(f"/{one.hash_part}.narinfo")).status)

    async def nar(self, one: Package) -> Answer | None:
        """None when it is cut."""
        try:
            return await self.served.get(f"/{one.our_url}")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


@asynccontextmanager
async def front(
    *upstreams: FaultUpstream, directory: Path, budget: float = 20.0, **settings: Any
) -> AsyncIterator[Front]:
    async with (
        mirror_of(
            *upstreams, directory=directory, stall_timeout=1.0, budget=budget, negative_ttl=0.0, **settings
        ) as mirror,
        Served(cast(Any, mirror)) as served,
    ):
        yield Front(mirror, served)


def redirect(location: str) -> Speak:
    return status(302, Location=location)


def narinfo_of(other: Package) -> Speak:
    return body(other.narinfo_text)


NARINFO_FAULTS: dict[str, tuple[Speak, HTTPStatus]] = {
    "refuses": (refuse, MAYBE),
    "hangs": (hang, MAYBE),
    "500": (status(500), MAYBE),
    "429": (status(429), MAYBE),
    "403": (status(403), NOT_FOUND),
    "404": (status(404), NOT_FOUND),
    "garbage": (body(b"\x7fELF" * 100), MAYBE),
    "of another path": (narinfo_of(package(7)), MAYBE),
    "a bad signature": (body(ONE.narinfo_text.replace(b"NarSize: 1", b"NarSize: 2")), NOT_FOUND),
    "a stranger's signature": (narinfo_of(signed(ONE, OTHER_KEY)), NOT_FOUND),
    "no signature": (narinfo_of(signed(ONE, None)), NOT_FOUND),
    "a wrong store dir": (body(ONE.narinfo_text.replace(b"/nix/store/", b"/gnu/store/")), MAYBE),
    "a redirect loop": (redirect(f"/{ONE.hash_part}.narinfo"), MAYBE),
    "a redirect to a file": (redirect("file:///etc/passwd"), MAYBE),
    "a bomb": (body(b"Sig: x:y\n" * 1_000_000), MAYBE),
}


def _budget(name: str) -> float:
    """Seconds: little where all of it is spent, and otherwise what a busy machine may need."""
    return 1.0 if name == "hangs" else 20.0


@pytest.mark.parametrize("name", NARINFO_FAULTS)
async def test_a_narinfo_that_cannot_be_had_is_unknown_or_absent_and_never_hidden(
    upstream: FaultUpstream, tmp_path: Path, name: str
) -> None:
    answer, expected = NARINFO_FAULTS[name]
    upstream.serve(ONE)
    good = upstream.answers[path := f"/{ONE.hash_part}.narinfo"]
    upstream.answers[path] = answer
    async with front(upstream, directory=tmp_path, budget=_budget(name)) as cache:
        assert await cache.narinfo(ONE) == expected
        assert upstream.count("/nar/") == 0
        upstream.answers[path] = good
        if name == "429":
            return  # it has asked to be left alone, or may have: see the tests of the breaker
        assert await cache.narinfo(ONE) == OK


@pytest.mark.parametrize("name", NARINFO_FAULTS)
async def test_behind_an_upstream_with_a_fault_the_next_one_is_asked(
    upstream: FaultUpstream, tmp_path: Path, name: str
) -> None:
    upstream.answers[f"/{ONE.hash_part}.narinfo"] = NARINFO_FAULTS[name][0]
    async with FaultUpstream() as second:
        second.serve(ONE)
        async with front(upstream, second, directory=tmp_path, budget=2 * _budget(name), priorities=(1, 2)) as cache:
            assert await cache.narinfo(ONE) == OK


BOMB = COMPRESS["xz"](bytes(50_000_000))
FLAWS: dict[str, Callable[[Package], bytes]] = {
    "truncated": lambda one: one.file[:-100],
    "another's": lambda _: package(9, size=1_500_000).file,
    "one wrong byte": lambda one: one.file[:-1] + bytes([one.file[-1] ^ 1]),
    "a bomb": lambda _: BOMB,
    "garbage": lambda one: b"\x7fELF" * (len(one.file) // 4),
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("with_file_hash", [True, False])
@pytest.mark.parametrize("name", FLAWS)
async def test_a_wrong_nar_never_comes_whole_is_not_kept_and_the_next_upstream_is_tried_on_the_retry(
    upstream: FaultUpstream, tmp_path: Path, *, name: str, with_file_hash: bool
) -> None:
    one = replace(ONE, with_file_hash=with_file_hash)
    upstream.serve(one)
    upstream.answers[f"/{one.path}"] = body(FLAWS[name](one))
    async with FaultUpstream() as second:
        second.serve(one)
        # Both answer at once; on a busy machine that may take a while.
        async with front(upstream, second, directory=tmp_path, budget=10.0, priorities=(1, 2)) as cache:
            assert await cache.narinfo(one) == OK
            answer = await cache.nar(one)
            await settle(cache.mirror)
            assert leftovers(tmp_path) == []
            if answer is not None and answer.status == OK:
                # It was given up before anybody was promised a byte, and the next upstream was tried at once.
                assert answer.body == one.file
            else:
                assert answer is None or answer.status == MAYBE
                assert kept(tmp_path) == []
            answer = await cache.nar(one)
            assert answer is not None
            assert (answer.status, answer.body) == (OK, one.file)
        assert upstream.count("/nar/") == 1


NAR_FAULTS: dict[str, tuple[Speak, HTTPStatus]] = {
    "refuses": (refuse, MAYBE),
    "hangs": (hang, MAYBE),
    "500": (status(500), MAYBE),
    "429": (status(429), MAYBE),
    "403": (status(403), NOT_FOUND),
    "404": (status(404), NOT_FOUND),
    "a redirect loop": (redirect(f"/{ONE.path}"), MAYBE),
    "a redirect to a file": (redirect("file:///etc/passwd"), MAYBE),
}


@pytest.mark.parametrize("name", NAR_FAULTS)
async def test_a_nar_that_cannot_be_had_is_an_error_before_anything_is_promised(
    upstream: FaultUpstream, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, expected = NAR_FAULTS[name]
    upstream.serve(ONE)
    good = upstream.answers[f"/{ONE.path}"]
    upstream.answers[f"/{ONE.path}"] = answer
    async with front(upstream, directory=tmp_path) as cache:
        assert await cache.narinfo(ONE) == OK
        with monkeypatch.context() as hurried:
            hurried.setattr("harmonia_py.mirror.nar_download._BEGIN_SECONDS", 0.3)
            heard = await cache.nar(ONE)
        assert heard is not None
        assert (heard.status, heard.headers["Cache-Control"]) == (expected, "no-store")
        await settle(cache.mirror)
        assert kept(tmp_path) == leftovers(tmp_path) == []
        upstream.answers[f"/{ONE.path}"] = good
        if name != "429":
            heard = await cache.nar(ONE)
            assert heard is not None
            assert (heard.status, heard.body) == (OK, ONE.file)


@pytest.mark.parametrize("how", ["a redirect", "a URL"])
@pytest.mark.parametrize("what", ["narinfo", "NAR"])
async def test_an_upstream_on_the_public_net_cannot_lead_to_a_private_address(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, how: str, what: str
) -> None:
    """One address of this machine is taken for a public one; what listens at another is nobody's business."""
    visits = 0

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    def is_public(address: Address) -> bool:
        return str(address) != INSIDE

    monkeypatch.setattr("harmonia_py.upstream.addresses.is_public", is_public)
    async with await asyncio.start_server(note, INSIDE, 0) as inside:
        secret = f"http://{INSIDE}:{inside.sockets[0].getsockname()[1]}/secret"
        one = replace(ONE, url=secret) if how == "a URL" else ONE
        upstream.serve(one)
        if how == "a redirect":
            upstream.answers[f"/{one.hash_part}.narinfo" if what == "narinfo" else f"/{one.path}"] = redirect(secret)
        async with front(upstream, directory=tmp_path) as cache:
            if what == "narinfo" and how == "a redirect":
                assert await cache.narinfo(one) == MAYBE
            else:
                assert await cache.narinfo(one) == OK
                answer = await cache.nar(one)
                assert answer is not None
                assert answer.status == MAYBE
    assert visits == 0


async def test_a_dead_upstream_is_an_error_until_its_breaker_opens_and_then_nothing_is_found(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    upstream.default = status(500)
    async with front(upstream, directory=tmp_path) as cache:
        heard = [await cache.narinfo(package(number)) for number in range(6)]
    assert heard == [MAYBE] * 2 + [NOT_FOUND] * 4
    assert len(upstream.requests) == 3


async def test_what_is_kept_is_served_through_every_fault(upstream: FaultUpstream, tmp_path: Path) -> None:
    upstream.serve(ONE)
    async with front(upstream, directory=tmp_path, budget=0.5, narinfo_ttl=0.0) as cache:
        assert await cache.nar(ONE)
        await settle(cache.mirror)
        for answer, _ in NARINFO_FAULTS.values():
            upstream.answers[f"/{ONE.hash_part}.narinfo"] = answer
            upstream.answers[f"/{ONE.path}"] = refuse
            assert await cache.narinfo(ONE) == OK
            heard = await cache.nar(ONE)
            assert heard is not None
            assert heard.body == ONE.file
        with contextlib.suppress(ConnectionError):
            await upstream.stop()
        assert await cache.narinfo(ONE) == OK
    assert upstream.count("/nar/") == 1
