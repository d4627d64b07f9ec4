"""Each policy allows what it says, and keeps what it knows within bounds."""

import asyncio
import logging

import pytest
from msgspec.structs import replace

from harmonia_py.cache import policy
from harmonia_py.cache.policy import BuiltHere, ClosureOf, SignedBy
from harmonia_py.errors import DaemonUnreachable
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

STORE = StoreDir("/nix/store")


def path(letter: str) -> StorePath:
    return StorePath.parse(f"{letter * 32}-{letter}")


A, B, C, D = map(path, "abcd")


def info(store_path: StorePath, *references: StorePath) -> PathInfo:
    return PathInfo(store_path=store_path, nar_hash=Hash.of(store_path.encode()), nar_size=1, references=references)


async def test_a_signature_counts_when_it_is_right_and_by_a_listed_key() -> None:
    key, other = SecretKey.generate("ci-1"), SecretKey.generate("other-1")
    impostor = SecretKey(key.name, other.data)
    signed_by = SignedBy([key.public_key], STORE)
    plain = info(A, B)
    message = plain.fingerprint(STORE)
    assert not await signed_by.allows(plain)
    for signer, allowed in ((key, True), (other, False), (impostor, False)):
        assert await signed_by.allows(replace(plain, signatures=(signer.sign(message),))) is allowed
    # Of another path's facts it is worth nothing, and what was verified before does not help.
    assert not await signed_by.allows(replace(plain, nar_size=2, signatures=(key.sign(message),)))
    assert await signed_by.allows(replace(plain, signatures=(other.sign(message), key.sign(message))))
    assert await signed_by.allowed_names() is None


async def test_what_was_verified_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_MAX_VERIFIED", 2)
    signed_by = SignedBy([], STORE)
    for letter in "abcdf":
        assert not await signed_by.allows(info(path(letter)))
    assert len(signed_by._verified) == 2


async def test_built_here_is_what_the_store_says() -> None:
    assert await BuiltHere().allows(replace(info(A), ultimate=True))
    assert not await BuiltHere().allows(info(A))


class Store:
    """Roots and facts that a test changes; `error` is raised instead."""

    def __init__(self) -> None:
        self.roots = [A]
        self.infos = {one.store_path.hash_part: one for one in (info(A, A, B), info(B, C), info(C), info(D, A))}
        self.error: Exception | None = None
        self.asked: list[HashPart] = []
        self.now = 0.0

    async def read_roots_file(self) -> list[StorePath]:
        if self.error is not None:
            raise self.error
        return self.roots

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        self.asked.append(hash_part)
        return self.infos.get(hash_part)

    def closure(self) -> ClosureOf:
        return ClosureOf(self.read_roots_file, self.path_info, lambda: self.now)

    async def allowed(self, closure: ClosureOf) -> str:
        return "".join(sorted([one.store_path.name for one in self.infos.values() if await closure.allows(one)]))


async def until_read(closure: ClosureOf) -> None:
    while closure._reading is not None:  # noqa: ASYNC110  # the task ends by itself
        await asyncio.sleep(0)


class TestClosure:
    async def test_it_is_the_roots_and_all_that_they_refer_to(self) -> None:
        store = Store()
        closure = store.closure()
        assert await store.allowed(closure) == "abc"
        assert sorted(await closure.allowed_names() or ()) == [A, B, C]
        assert len(store.asked) == 3

    async def test_roots_that_come_and_go_are_seen_after_a_while(self) -> None:
        store = Store()
        closure = store.closure()
        await store.allowed(closure)
        for roots, allowed in (([D], "abcd"), ([B], "bc"), ([], "")):
            store.roots = roots
            before = await store.allowed(closure)
            store.now += policy.ROOTS_SECONDS
            # Nobody waits for it.
            assert await store.allowed(closure) == before or not before
            await until_read(closure)
            assert await store.allowed(closure) == allowed

    async def test_many_who_ask_at_the_start_wait_for_one_reading(self) -> None:
        store = Store()
        closure = store.closure()
        assert await asyncio.gather(*(closure.allows(info(B)) for _ in range(50))) == [True] * 50
        assert len(store.asked) == 3

    async def test_who_cannot_tell_says_so_at_first_and_then_what_it_knew(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = Store()
        closure = store.closure()
        store.error = DaemonUnreachable("away")
        for _ in range(2):
            with pytest.raises(DaemonUnreachable):
                await closure.allows(info(A))
        store.error = None
        assert await store.allowed(closure) == "abc"
        store.error = DaemonUnreachable("away again")
        store.now += policy.ROOTS_SECONDS
        with caplog.at_level(logging.WARNING):
            assert await store.allowed(closure) == "abc"
            await until_read(closure)
        assert "away again" in caplog.text
        assert await store.allowed(closure) == "abc"

    async def test_it_is_bounded(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(policy, "MAX_CLOSURE_PATHS", 2)
        store = Store()
        assert len(await store.allowed(store.closure())) == 2
        assert "more than 2 paths" in caplog.text

    async def test_a_root_that_is_not_here_is_only_its_name(self) -> None:
        store = Store()
        store.roots = [path("z")]
        assert await store.allowed(store.closure()) == ""

    async def test_closing_ends_what_is_under_way(self) -> None:
        store = Store()
        closure = store.closure()
        waiting = asyncio.create_task(closure.allows(info(A)))
        await asyncio.sleep(0)
        await closure.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting
