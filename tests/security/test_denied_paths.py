"""What a policy denies cannot be told from what is absent: not by the work that an answer takes, and not by an error.

Work is counted, not timed: questions to the store, looks at its directory, questions to the upstream.
"""

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from fault_upstream import KEY, FaultUpstream, status
from lab import CaClosure, Lab

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.source import DocumentKind
from harmonia_py.cache.tree import BuildId
from harmonia_py.config.settings import Config
from harmonia_py.errors import HarmoniaError
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.files.derivations import Derivations
from harmonia_py.store.local import LocalStore
from harmonia_py.wiring.node import Node
from harmonia_py.wiring.pools import Pools
from harmonia_py.wiring.store_choice import choose_store

ABSENT: Final = HashPart.parse("0" * 32)
BUILD_ID: Final = "02623eda209c26a59b1a8638ff7752f6b945c26b"

# Every way to ask for a path whose hash part is known.
WAYS: Final[dict[str, Callable[[BinaryCache, HashPart], Awaitable[object]]]] = {
    "narinfo": lambda cache, path: cache.narinfo(path),
    "nar": lambda cache, path: cache.nar(NarUrl(path, None, "none")),
    "kept nar": lambda cache, path: cache.nar(NarUrl(path, None, "zstd")),
    "listing": lambda cache, path: cache.document(DocumentKind.LISTING, path),
    "file": lambda cache, path: cache.file(path, ()),
}


@pytest.fixture
def denied(daemon: Lab, tmp_path: Path) -> HashPart:
    """A path that is in the store and was not built there."""
    file = tmp_path / "denied"
    file.write_text("not built here")
    return daemon.add(file).hash_part


def serving_what_was_built_here(
    lab: Lab, root: Path, upstream: FaultUpstream
) -> AbstractAsyncContextManager[BinaryCache]:
    return serving(lab, root, upstream, {"serve": "ultimate"})


@asynccontextmanager
async def serving(lab: Lab, root: Path, upstream: FaultUpstream, policy: dict[str, Any]) -> AsyncIterator[BinaryCache]:
    settings: dict[str, Any] = {
        "virtual_nix_store": str(lab.store_dir),
        "real_nix_store": str(lab.real_store),
        "daemon_socket": str(lab.socket),
        "cache": {"directory": str(root / "kept")},
        "mirror": {"negative_ttl": 3600.0},
        "upstream": [{"url": upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}],
        "policy": policy,
    }
    config, pools = msgspec.convert(settings, Config), Pools()
    try:
        node = await Node.open(config, [], choose_store(config), pools, metrics=Metrics.alone(), housekeeping=True)
        yield node.cache
    finally:
        await pools.aclose()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done from now on: a word for each question to the store and each look into its directory."""
    done: list[str] = []
    ask, look = DaemonStore.path_info, os.path.lexists
    ask_output, read = DaemonStore.realisation, Derivations.outputs

    async def path_info(self: DaemonStore, hash_part: HashPart) -> PathInfo | None:
        done.append("store")
        return await ask(self, hash_part)

    def lexists(path: str) -> bool:
        done.append("directory")
        return look(path)

    async def realisation(self: DaemonStore, output: DrvOutput) -> Realisation | None:
        done.append("store, for an output")
        return await ask_output(self, output)

    async def outputs(self: Derivations, derivation: StorePath) -> tuple[StorePath, ...]:
        done.append("derivation")
        return await read(self, derivation)

    async def look_first(_self: LocalStore) -> None:
        """It would be counted, or not, as if a client had asked."""

    monkeypatch.setattr(LocalStore, "look_first", look_first)
    monkeypatch.setattr(DaemonStore, "path_info", path_info)
    monkeypatch.setattr(DaemonStore, "realisation", realisation)
    monkeypatch.setattr(Derivations, "outputs", outputs)
    monkeypatch.setattr(os.path, "lexists", lexists)
    return done


@pytest.mark.parametrize("way", WAYS)
async def test_telling_denied_from_absent_by_the_work(
    daemon: Lab, denied: HashPart, tmp_path: Path, work: list[str], way: str
) -> None:
    """A denied path was answered from memory and no upstream was asked: 114 microseconds, an absent one took 164."""
    async with FaultUpstream() as upstream, serving_what_was_built_here(daemon, tmp_path, upstream) as cache:

        async def work_for(hash_part: HashPart) -> list[str]:
            work.clear()
            upstream.requests.clear()
            assert await WAYS[way](cache, hash_part) is None
            return [*work, *("upstream" for _ in upstream.requests)]

        absent = [await work_for(ABSENT) for _ in range(3)]
        assert [await work_for(denied) for _ in range(3)] == absent
        # The upstream is believed for a while, the store is asked each time: what comes into it is there at once.
        assert absent == [["store", "upstream"], ["store"], ["store"]]


class Built(Lab):
    ca: CaClosure


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """A store that has logs, an output of a content-addressed derivation, and debug information."""
    with Built(tmp_path_factory.mktemp("built")) as lab:
        lab.closure, lab.ca = lab.build(), lab.build_ca()
        symbols = lab.root / "debug" / "lib/debug/.build-id" / BUILD_ID[:2]
        symbols.mkdir(parents=True)
        (symbols / f"{BUILD_ID[2:]}.debug").write_bytes(b"\x7fELF")
        lab.add(lab.root / "debug")
        lab.start_daemon()
        yield lab


def output_of(lab: Built) -> DrvOutput:
    """What Nix up to 2.34 calls the output of the content-addressed derivation."""
    derivation = lab.full(lab.ca.top_derivation)
    told = [
        lab.run("nix", "realisation", "info", "--json", name, check=False) for name in (derivation, f"{derivation}^out")
    ]
    [realisation] = json.loads(next(one.stdout for one in told if b"sha256:" in one.stdout))
    return DrvOutput.parse(realisation["id"])


# Three ways by another name than that of a path: each is given what is there, or what is not.
NAMED: Final[dict[str, Callable[[BinaryCache, Built, bool], Awaitable[object]]]] = {
    "log": lambda cache, lab, is_there: cache.document(
        DocumentKind.LOG, lab.closure.derivation if is_there else StorePath.parse(f"{ABSENT}-absent.drv")
    ),
    "log of a hash part": lambda cache, lab, is_there: cache.document(
        DocumentKind.LOG, lab.closure.derivation.hash_part if is_there else ABSENT
    ),
    "log of what is no derivation": lambda cache, lab, is_there: cache.document(
        DocumentKind.LOG, lab.closure.top.hash_part if is_there else ABSENT
    ),
    "realisation": lambda cache, lab, is_there: cache.realisation(
        output_of(lab) if is_there else DrvOutput.parse(f"sha256:{'0' * 64}!out")
    ),
    "debug information": lambda cache, _, is_there: cache.debug_file(BuildId.parse(BUILD_ID if is_there else "0" * 40)),
}


@pytest.mark.parametrize("way", NAMED)
async def test_telling_denied_from_absent_by_the_work_for_what_has_another_name(
    built: Built, tmp_path: Path, work: list[str], way: str
) -> None:
    """Logs, realisations and debug information of denied paths took a question more than those that are absent."""
    denies_all = {"serve": "signed", "public_keys": ["somebody-1:" + "A" * 43 + "="]}
    async with FaultUpstream() as upstream:
        async with serving(built, tmp_path / "all", upstream, {}) as cache:
            assert await NAMED[way](cache, built, True) is not None or "no derivation" in way
        async with serving(built, tmp_path / "none", upstream, denies_all) as cache:
            # What is made once for all that ask, such as an index, is made.
            assert await NAMED[way](cache, built, True) is None

        async def work_for(*, is_there: bool) -> list[str]:
            async with serving(built, tmp_path / "none", upstream, denies_all) as cache:
                await cache.debug_file(BuildId.parse("1" * 40))
                await cache.realisation(DrvOutput.parse(f"sha256:{'1' * 64}!out"))
                work.clear()
                upstream.requests.clear()
                assert await NAMED[way](cache, built, is_there) is None
                return sorted([*work, *("upstream" for _ in upstream.requests)])

        absent = await work_for(is_there=False)
        assert await work_for(is_there=True) == absent
        assert "store" in absent


async def test_telling_denied_from_absent_by_an_upstream_that_is_away(
    daemon: Lab, denied: HashPart, tmp_path: Path
) -> None:
    """Of an absent path nobody could tell, which is an error; a denied one was 404."""
    async with FaultUpstream() as upstream, serving_what_was_built_here(daemon, tmp_path, upstream) as cache:
        upstream.default = status(500)
        errors = []
        for hash_part in (ABSENT, denied):
            with pytest.raises(HarmoniaError) as raised:
                await cache.narinfo(hash_part)
            errors.append(str(raised.value).replace(hash_part, "PATH"))
        assert errors[0] == errors[1]
