"""What is counted of upstreams, over HTTP and on `/metrics`."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_upstream import OTHER_KEY, FaultUpstream, body, file_with_ranges, hang, package, signed, status
from lab import Lab
from mirrors import fetch, fetch_kept, mirror_of
from server import Server, settings_of
from waiting import eventually

from harmonia_py.errors import HarmoniaError
from harmonia_py.metrics import families
from harmonia_py.mirror.mirror import Mirror
from harmonia_py.mirror.outcome import NoUpstreamAnswered
from harmonia_py.mirror.upstream_metrics import UpstreamMetrics


def figures_of(mirror: Mirror) -> UpstreamMetrics:
    return mirror._upstreams.all[0].upstream.metrics


async def test_answers_and_bytes_are_counted(tmp_path: Path) -> None:
    async with FaultUpstream() as upstream:
        one = package(1)
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await fetch(mirror, one) == one.file
            assert await mirror.narinfo(package(2).hash_part) is None
            metrics = figures_of(mirror)
            assert (metrics.found.value, metrics.absent.value) == (2, 1)
            assert metrics.received_bytes.value == len(one.file) + len(one.narinfo_text)
            assert metrics.unreachable.value == metrics.malformed.value == metrics.untrusted.value == 0


@pytest.mark.parametrize("cuts", [0, 2])
async def test_bytes_that_threads_read_from_the_socket_are_counted_as_well(tmp_path: Path, cuts: int) -> None:
    """Of large NARs only the first portion was counted."""
    async with FaultUpstream() as upstream:
        one = package(1, size=6_000_000, compression="none")
        upstream.serve(one)
        upstream.answers[f"/{one.path}"] = file_with_ranges(one.file, cuts=cuts, cut_after=2_000_000)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await fetch_kept(mirror, one) == one.file
            metrics = figures_of(mirror)
            assert metrics.received_bytes.value == len(one.file) + len(one.narinfo_text)
            assert metrics.unreachable.value == cuts


async def test_a_wrong_file_that_threads_read_from_the_socket_is_counted(tmp_path: Path) -> None:
    async with FaultUpstream() as upstream:
        one = package(1, size=6_000_000, compression="xz")
        upstream.serve(one)
        middle = len(one.file) // 2
        upstream.answers[f"/{one.path}"] = body(one.file[:middle] + bytes(1000) + one.file[middle + 1000 :])
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            with contextlib.suppress(HarmoniaError):  # the download is cut, or ends before its first byte
                await fetch(mirror, one)
            await eventually(lambda: figures_of(mirror).malformed.value == 1)


async def test_what_fails_is_counted_by_what_it_is(tmp_path: Path) -> None:
    async with FaultUpstream() as upstream:
        stranger = signed(package(1), OTHER_KEY)
        upstream.serve(stranger)
        upstream.answers[f"/{package(2).hash_part}.narinfo"] = status(500)
        upstream.answers[f"/{package(3).hash_part}.narinfo"] = hang
        async with mirror_of(upstream, directory=tmp_path, budget=1.5) as mirror:
            metrics = figures_of(mirror)
            assert await mirror.narinfo(stranger.hash_part) is None
            assert metrics.untrusted.value == 1
            for number in (2, 3):
                with pytest.raises(NoUpstreamAnswered):
                    await mirror.narinfo(package(number).hash_part)
            assert metrics.unreachable.value == 2
            assert metrics.breaker_open.value == 0
            # The third in a row: from now on it is left alone, and what it may have counts as absent.
            assert await mirror.narinfo(package(2).hash_part) is None
            assert metrics.breaker_open.value == 1


class TestServer:
    @pytest.fixture
    def server(self, daemon: Lab, tmp_path: Path) -> Iterator[Server]:
        settings = settings_of(daemon, daemon.secret_key("test-1"))
        settings["upstream"] = [{"url": "http://127.0.0.1:1", "public_keys": [daemon.secret_key("up-1").public]}]
        settings["mirror"] = {"import": True}
        with Server(tmp_path, daemon.env, settings) as server:
            yield server

    def test_every_upstream_and_the_mirror_are_there_from_the_start(self, server: Server) -> None:
        text = server.get("/metrics").body.decode()
        for family in families.FAMILIES:
            if family.name.startswith(("harmonia_upstream_", "harmonia_mirror_")):
                assert re.search(rf"^{family.name}(\{{.*\}})? 0$", text, re.MULTILINE), family.name
