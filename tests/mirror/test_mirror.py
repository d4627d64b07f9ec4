"""The rules of mirroring, one by one, over HTTP and a real directory."""

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from blob_readers import read_all
from fault_upstream import (
    COMPRESS,
    KEY,
    OTHER_KEY,
    STORE_DIR,
    Connection,
    FaultUpstream,
    Package,
    Speak,
    body,
    file_with_ranges,
    hang,
    package,
    refuse,
    signed,
    status,
)
from json_threads import note_threads
from mirrors import fetch, fetch_kept, kept, leftovers, mirror_of, named, settle
from msgspec.structs import replace
from s3_double import S3Double
from zstd_library import zstd

from harmonia_py.cache.source import AT_ONCE, DocumentKind, Download, NotAtOnce
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.contents.kept_files import key_of
from harmonia_py.errors import HarmoniaError
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.mirror.mirror import Mirror
from harmonia_py.mirror.narinfo_index import NarinfoIndex
from harmonia_py.mirror.outcome import NoUpstreamAnswered
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.storage.s3.blobs import S3Blobs


@pytest.fixture
async def second() -> AsyncIterator[FaultUpstream]:
    async with FaultUpstream() as upstream:
        yield upstream


class TestNarinfos:
    async def test_it_says_where_the_nar_is_here_and_keeps_the_upstreams_signature(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            found = await mirror.narinfo(one.hash_part)
        assert found is not None
        assert found.narinfo.path_info == one.path_info
        assert found.narinfo.url == f"nar/{one.hash_part}-{one.path_info.nar_hash.nix32}.nar.xz"
        assert found.narinfo.compression == "xz"
        assert (found.narinfo.file_hash, found.narinfo.file_size) == (Hash.of(one.file), len(one.file))
        assert found.origin.label == "upstream up0"

    async def test_asking_never_downloads_the_nar_and_is_one_get(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            await mirror.narinfo(one.hash_part)
        assert [request.path for request in upstream.requests] == [f"/{one.hash_part}.narinfo"]

    async def test_many_who_ask_at_once_cause_one_question(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        """Those for whom the catalog was still asked when the answer came asked for it once more."""
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            found = await asyncio.gather(*[mirror.narinfo(one.hash_part) for _ in range(300)])
        assert all(found)
        assert len(upstream.requests) == 1

    async def test_a_second_question_is_answered_from_memory_until_max_age(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        fresh, old = package(1), package(2)
        upstream.answers[f"/{fresh.hash_part}.narinfo"] = body(fresh.narinfo_text, Cache_Control="public, max-age=99")
        upstream.answers[f"/{old.hash_part}.narinfo"] = body(old.narinfo_text, Cache_Control="max-age=0")
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            for one in (fresh, fresh, old, old):
                assert await mirror.narinfo(one.hash_part) is not None
        assert (upstream.count(fresh.hash_part), upstream.count(old.hash_part)) == (1, 2)

    @pytest.mark.parametrize("code", [404, 403, 410])
    async def test_absent_is_believed_and_remembered_for_a_while(
        self, upstream: FaultUpstream, tmp_path: Path, code: int
    ) -> None:
        upstream.default = status(code)
        async with mirror_of(upstream, directory=tmp_path, negative_ttl=0.3) as mirror:
            for _ in range(2):
                assert await mirror.narinfo(package().hash_part) is None
            assert len(upstream.requests) == 1
            upstream.serve(package())
            deadline = time.monotonic() + 30
            while await mirror.narinfo(package().hash_part) is None:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)

    async def test_while_its_file_is_looked_for_nobody_is_told_the_name_of_another(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        """A kept xz file was offered as zstd for as long as the look at the disk took."""
        one = package(compression="xz")
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            await fetch_kept(mirror, one)
            entry = await mirror.index.find(one.hash_part)
            assert entry is not None
            mirror._kept._facts.clear()
            looking = asyncio.create_task(mirror.index.look(entry))
            while not looking.done():
                assert entry.published().narinfo.url == str(one.our_url)
                await asyncio.sleep(0)
            assert entry.facts is not None


class TestUnknown:
    @pytest.mark.parametrize(
        "answer",
        [
            status(500), status(502), status(503), status(429), status(401), status(407), status(400),
            body(b"garbage"), body(b""), body(b"\xff" * 100), body(b"StorePath: /nix/store/x\n"),
            body(b"x" * 5_000_000), status(204), status(301), status(302, Location="http://[/"),
            body(package().narinfo_text, Content_Encoding="br"),
            body(package(7).narinfo_text),
            body(package().narinfo_text.replace(b"/nix/store/", b"/gnu/store/")),
            body(package().narinfo_text, Content_Length="99999"),
        ],
    )  # fmt: skip
    async def test_what_is_no_clear_answer_never_hides_a_path(
        self, upstream: FaultUpstream, tmp_path: Path, answer: Speak
    ) -> None:
        upstream.default = answer
        async with mirror_of(upstream, directory=tmp_path, budget=20.0) as mirror:
            with pytest.raises(NoUpstreamAnswered):
                await mirror.narinfo(package().hash_part)
            upstream.serve(package())
            assert await mirror.narinfo(package().hash_part) is not None

    async def test_a_dead_upstream_costs_the_budget_until_its_breaker_opens_and_then_nothing(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        upstream.default = hang
        async with mirror_of(upstream, directory=tmp_path, budget=0.2) as mirror:
            for number in range(3):
                begun = time.monotonic()
                if number < 2:
                    with pytest.raises(NoUpstreamAnswered):
                        await mirror.narinfo(package(number).hash_part)
                else:
                    assert await mirror.narinfo(package(number).hash_part) is None
                assert 0.15 < time.monotonic() - begun < 20.0
            begun = time.monotonic()
            # Every breaker is open: "not found" at once, so that work offline goes on.
            for number in range(3, 153):
                assert await mirror.narinfo(package(number).hash_part) is None
            assert time.monotonic() - begun < 20.0  # each a budget: 30 s
        assert len(upstream.requests) == 3

    async def test_an_open_breaker_never_writes_absence_into_memory(
        self, upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upstream.default = status(500)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            for _ in range(3):
                with contextlib.suppress(NoUpstreamAnswered):
                    await mirror.narinfo(package().hash_part)
            upstream.serve(package())
            assert await mirror.narinfo(package().hash_part) is None
            later = time.monotonic() + 61
            monkeypatch.setattr(time, "monotonic", lambda: later)
            assert await mirror.narinfo(package().hash_part) is not None

    @pytest.mark.parametrize(("on_unknown", "is_error"), [("not-found", False), ("error", True)])
    async def test_what_a_client_hears_can_be_chosen(
        self, upstream: FaultUpstream, tmp_path: Path, *, on_unknown: str, is_error: bool
    ) -> None:
        upstream.default = status(500)
        async with mirror_of(upstream, directory=tmp_path, on_unknown=on_unknown) as mirror:
            for number in range(5):
                if is_error:
                    with pytest.raises(NoUpstreamAnswered):
                        await mirror.narinfo(package(number).hash_part)
                else:
                    assert await mirror.narinfo(package(number).hash_part) is None

    async def test_an_upstream_that_asks_for_rest_gets_it(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        upstream.default = status(429, Retry_After="30")
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            for number in range(5):
                with contextlib.suppress(NoUpstreamAnswered):
                    await mirror.narinfo(package(number).hash_part)
        assert len(upstream.requests) == 1


class TestSeveral:
    async def test_the_next_tier_is_asked_when_the_better_one_has_nothing_or_fails(
        self, upstream: FaultUpstream, second: FaultUpstream, tmp_path: Path
    ) -> None:
        for default in (status(404), status(500), hang):
            one = package(hash(default) % 1000)
            upstream.default = default
            second.serve(one)
            async with mirror_of(upstream, second, priorities=(1, 2), directory=tmp_path, budget=4.0) as mirror:
                found = await mirror.narinfo(one.hash_part)
                assert found is not None
                assert found.origin.label == "upstream up1"

    async def test_the_better_tier_is_asked_alone(
        self, upstream: FaultUpstream, second: FaultUpstream, tmp_path: Path
    ) -> None:
        upstream.serve(package())
        second.serve(package())
        async with mirror_of(second, upstream, priorities=(2, 1), directory=tmp_path) as mirror:
            assert await mirror.narinfo(package().hash_part) is not None
        assert (len(upstream.requests), len(second.requests)) == (1, 0)

    async def test_equals_are_asked_at_the_same_time_and_the_first_good_answer_wins(
        self, upstream: FaultUpstream, second: FaultUpstream, tmp_path: Path
    ) -> None:
        upstream.default = hang
        second.serve(package())
        async with mirror_of(upstream, second, directory=tmp_path, budget=30.0) as mirror:
            begun = time.monotonic()
            assert await mirror.narinfo(package().hash_part) is not None
            assert time.monotonic() - begun < 20
            # The loser was cancelled, which is nobody's failure.
            assert not any(state.breaker.is_open(time.monotonic()) for state in mirror._upstreams.all)

    async def test_absent_is_absent_only_when_nobody_is_unknown(
        self, upstream: FaultUpstream, second: FaultUpstream, tmp_path: Path
    ) -> None:
        second.default = status(500)
        async with mirror_of(upstream, second, directory=tmp_path) as mirror:
            with pytest.raises(NoUpstreamAnswered):
                await mirror.narinfo(package().hash_part)
            second.default = status(404)
            assert await mirror.narinfo(package().hash_part) is None

    async def test_a_nar_that_is_gone_comes_from_another_that_has_the_same(
        self, upstream: FaultUpstream, second: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package()
        upstream.serve(one)
        upstream.answers[f"/{one.path}"] = status(404)
        second.serve(replace(one, url="elsewhere.nar.xz?x=%2F"))
        async with mirror_of(upstream, second, priorities=(1, 2), directory=tmp_path) as mirror:
            assert await mirror.narinfo(one.hash_part) is not None
            assert await fetch(mirror, one) == one.file

    async def test_after_a_wrong_nar_the_retry_goes_to_the_next(
        self, upstream: FaultUpstream, second: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package()
        upstream.serve(one)
        upstream.answers[f"/{one.path}"] = body(package(9).file)
        second.serve(one)
        async with mirror_of(upstream, second, priorities=(1, 2), directory=tmp_path) as mirror:
            # What is small is found to be wrong before anybody was promised it: then this is no retry of the client's.
            with contextlib.suppress(HarmoniaError):
                assert await fetch(mirror, one) == one.file
            await settle(mirror)
            assert await fetch(mirror, one) == one.file
        assert upstream.count("/nar/") == 1


class TestWorkers:
    """Two mirrors that share what two workers do: the directory, and the memory."""

    async def test_what_one_was_told_the_other_need_not_ask(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        one = package()
        upstream.serve(one)
        texts = SharedTexts()
        async with (
            mirror_of(upstream, directory=tmp_path, texts=texts) as first,
            mirror_of(upstream, directory=tmp_path, texts=texts) as second,
        ):
            told = await first.narinfo(one.hash_part)
            assert await fetch_kept(second, one) == one.file
            again = await second.narinfo(one.hash_part)
            assert told is not None
            assert again is not None
            assert (again.narinfo.path_info, again.narinfo.url) == (told.narinfo.path_info, told.narinfo.url)
        assert (upstream.count(".narinfo"), upstream.count("/nar/")) == (1, 1)

    async def test_what_one_has_forgotten_the_other_does_not_recall(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package()
        upstream.serve(one)
        texts = SharedTexts()
        async with (
            mirror_of(upstream, directory=tmp_path, texts=texts, narinfo_ttl=0.0) as first,
            mirror_of(upstream, directory=tmp_path, texts=texts) as second,
        ):
            assert await first.narinfo(one.hash_part) is not None
            del upstream.answers[f"/{one.hash_part}.narinfo"]
            assert await first.narinfo(one.hash_part) is None
            assert await second.nar(one.our_url) is None
        assert upstream.count(".narinfo") == 3

    async def test_what_is_too_long_is_asked_again(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        one = package()
        references = tuple(sorted(package(number).path_info.store_path for number in range(1, 100)))
        one = signed(replace(one, path_info=replace(one.path_info, references=references)), KEY)
        upstream.serve(one)
        texts = SharedTexts()
        async with (
            mirror_of(upstream, directory=tmp_path, texts=texts) as first,
            mirror_of(upstream, directory=tmp_path, texts=texts) as second,
        ):
            assert await first.narinfo(one.hash_part) is not None
            assert await fetch(second, one) == one.file
        assert upstream.count(".narinfo") == 2


class TestTrust:
    @pytest.mark.parametrize("key", [None, OTHER_KEY])
    async def test_without_a_signature_by_a_trusted_key_there_is_nothing_and_the_log_says_which_there_were(
        self, upstream: FaultUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture, key: SecretKey | None
    ) -> None:
        one = signed(package(), key)
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await mirror.narinfo(one.hash_part) is None
            assert await fetch(mirror, one) is None
        assert upstream.count("/nar/") == 0
        assert "trusted keys: upstream-1" in caplog.text
        assert key is None or "signed by other-1" in caplog.text

    async def test_a_wrong_signature_under_the_right_name_is_none(
        self, upstream: FaultUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = package()
        wrong = replace(one.path_info, nar_size=one.path_info.nar_size + 1)
        upstream.serve(replace(one, path_info=wrong))
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await mirror.narinfo(one.hash_part) is None
        assert "signature by upstream-1 is wrong" in caplog.text

    async def test_a_content_address_that_follows_from_the_nar_hash_is_proof_enough(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package(key=None)
        ca = ContentAddress(Method.NAR, one.path_info.nar_hash)
        info = PathInfo(
            store_path=ca.store_path("proved", (), STORE_DIR),
            nar_hash=one.path_info.nar_hash,
            nar_size=one.path_info.nar_size,
            ca=ca,
        )
        proved = replace(one, path_info=info)
        other = package(5, key=None)
        lying = replace(one, path_info=replace(info, nar_hash=other.path_info.nar_hash), url="lie")
        upstream.serve(proved)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await mirror.narinfo(proved.hash_part) is not None
            assert await fetch(mirror, proved) == proved.file
        upstream.serve(lying)
        async with mirror_of(upstream, directory=tmp_path / "other") as mirror:
            assert await mirror.narinfo(lying.hash_part) is None

    async def test_a_compression_that_cannot_be_verified_is_not_offered(
        self, upstream: FaultUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = package()
        upstream.answers[f"/{one.hash_part}.narinfo"] = body(one.narinfo_text.replace(b": xz", b": lz4"))
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await mirror.narinfo(one.hash_part) is None
        assert "lz4, which cannot be decompressed here" in caplog.text

    async def test_a_key_that_was_withdrawn_is_not_trusted_for_what_is_kept_either(
        self, upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            await fetch_kept(mirror, one)
        monkeypatch.setattr("mirrors.KEY", OTHER_KEY)
        await upstream.stop()
        async with mirror_of(upstream, directory=tmp_path, on_unknown="not-found") as mirror:
            assert await mirror.narinfo(one.hash_part) is None


class TestNars:
    @pytest.mark.parametrize("compression", sorted(COMPRESS))
    @pytest.mark.parametrize("with_file_hash", [True, False])
    async def test_it_comes_byte_for_byte_is_kept_and_comes_again_without_the_upstream(
        self, upstream: FaultUpstream, tmp_path: Path, *, compression: str, with_file_hash: bool
    ) -> None:
        one = replace(package(compression=compression, size=3_000_000), with_file_hash=with_file_hash)
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await fetch_kept(mirror, one) == one.file
            assert upstream.count("/nar/") == 1
            await upstream.stop()
            assert await fetch(mirror, one) == one.file
            answer = await mirror.narinfo(one.hash_part)
        assert answer is not None
        assert answer.origin.label == "kept"
        assert (answer.narinfo.file_hash, answer.narinfo.file_size) == (Hash.of(one.file), len(one.file))
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            answer = await mirror.narinfo(one.hash_part)
            assert answer is not None
            assert answer.origin.label == "kept"
            with await _download(mirror, one) as found:
                assert (found.size, found.etag) == (len(one.file), Hash.of(one.file).nix32)
                assert await read_all(found.pieces(7, 99)) == one.file[7:99]

    @pytest.mark.parametrize(
        "url",
        [
            "nar/abc.nar?hash=0123&signature=a%2Fb%3D",
            "deep/down/there.nar",
            "/from/the/root.nar",
            "{other}/absolute.nar?x=1",
        ],
    )
    async def test_the_upstreams_url_is_opaque_keeps_its_query_and_may_be_absolute(
        self, upstream: FaultUpstream, second: FaultUpstream, tmp_path: Path, url: str
    ) -> None:
        one = replace(package(), url=url.format(other=second.url))
        upstream.answers[f"/{one.hash_part}.narinfo"] = body(one.narinfo_text)
        where, path = (second, "/absolute.nar?x=1") if "absolute" in url else (upstream, "/" + url.lstrip("/"))
        where.answers[path] = body(one.file)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await fetch(mirror, one) == one.file
        assert where.requests[-1].path == path

    async def test_a_request_for_another_nar_hash_or_compression_is_nothing(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await fetch(mirror, NarUrl(one.hash_part, Hash.of(b""), "xz")) is None
            assert await fetch(mirror, NarUrl(one.hash_part, one.path_info.nar_hash, "bzip2")) is None
            assert await fetch(mirror, NarUrl(one.hash_part, one.path_info.nar_hash, "lz4")) is None
            assert await fetch(mirror, NarUrl(one.hash_part, None, "none")) is None
        assert upstream.count("/nar/") == 0

    @pytest.mark.parametrize("keeps", [True, False])
    @pytest.mark.parametrize("compression", ["xz", "none", "zstd"])
    async def test_an_old_url_of_the_local_store_goes_on_to_work(
        self, upstream: FaultUpstream, tmp_path: Path, *, compression: str, keeps: bool
    ) -> None:
        """Clients remember for 30 days that a path is a zstd file here; by then it may be collected."""
        one = package(size=3_000_000, compression=compression)
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
            plain = await fetch(mirror, NarUrl(one.hash_part, one.path_info.nar_hash, "none"))
            assert plain == one.nar
            coded = await fetch(mirror, NarUrl(one.hash_part, one.path_info.nar_hash, "zstd"))
            assert coded is not None
            assert zstd.decompress(coded) == one.nar
            await settle(mirror)
            found = await mirror.narinfo(one.hash_part)
            assert found is not None
            if keeps:
                assert (found.narinfo.compression, found.origin.label) == ("zstd", "kept")
                assert found.narinfo.file_hash == Hash.of(coded)

    async def test_the_first_bytes_leave_before_the_last_have_come_and_twenty_clients_cause_one_download(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package(size=1_000_000, compression="none")
        upstream.serve(one)
        gate = _held_back(upstream, one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            downloads = await asyncio.gather(*[_download(mirror, one) for _ in range(20)])
            assert all(download.size == len(one.file) for download in downloads)
            assert await read_all(downloads[0].pieces(0, 1000)) == one.file[:1000]
            downloads[1].release()
            gate.set()
            for download in downloads[2:]:
                assert await read_all(download.pieces(0, download.size)) == one.file
            for number in (0, *range(2, 20)):
                downloads[number].release()
            await settle(mirror)
        assert upstream.count("/nar/") == 1

    @pytest.mark.parametrize("keeps", [True, False])
    async def test_it_is_not_idle_while_something_comes(
        self, upstream: FaultUpstream, tmp_path: Path, *, keeps: bool
    ) -> None:
        """A reload closes the mirror that was in use before; downloads that run would be cut."""
        one = package(size=1_000_000, compression="none")
        upstream.serve(one)
        gate = _held_back(upstream, one)
        async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
            await mirror.idle()
            download = await _download(mirror, one)
            idle = asyncio.create_task(mirror.idle())
            gate.set()
            with download:
                assert not idle.done()
                assert await read_all(download.pieces(0, download.size)) == one.file
            await idle

    async def test_who_begins_while_another_gives_up_takes_nothing_from_it(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one, trouble = package(), []
        upstream.serve(one)
        upstream.answers[f"/{one.path}"] = status(404)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: trouble.append(context))
        async with mirror_of(upstream, directory=tmp_path, negative_ttl=0.0, downloads=4) as mirror:
            for _ in range(10):
                await asyncio.gather(*(fetch(mirror, one) for _ in range(30)), return_exceptions=True)
            await settle(mirror)
            gc.collect()
            assert not trouble
            assert mirror._downloads.lane.turns.free == 4

    async def test_a_nar_nobody_waits_for_any_more_is_kept(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        one = package(size=1_000_000)
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            (await _download(mirror, one)).release()
            await settle(mirror)
        assert kept(tmp_path) == [str(one.our_url).removeprefix("nar/")]

    @pytest.mark.parametrize("keeps", [True, False])
    async def test_when_every_breaker_is_open_it_is_not_found_at_once(
        self, upstream: FaultUpstream, tmp_path: Path, *, keeps: bool
    ) -> None:
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
            await mirror.narinfo(one.hash_part)
            upstream.answers[f"/{one.path}"] = refuse
            for _ in range(2):
                with pytest.raises(NoUpstreamAnswered):
                    await fetch(mirror, one)
                await settle(mirror)
            assert await fetch(mirror, one) is None


async def put_file(mirror: Mirror, one: Package) -> None:
    """Keep the file of a NAR without its row."""
    blobs = mirror._intake.storage.blobs
    assert blobs is not None
    await blobs.put(
        key_of(one.our_url), one.file, {"file_hash": str(Hash.of(one.file)), "file_size": str(len(one.file))}
    )


class TestAtOnce:
    """A client that takes nothing but a file which can be opened without waiting."""

    async def test_it_gets_a_kept_file_and_fetches_nothing(self, upstream: FaultUpstream, disk_path: Path) -> None:
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=disk_path) as mirror:
            told: list[str] = []
            mirror.on_kept = told.append
            with pytest.raises(NotAtOnce):
                await mirror.nar(one.our_url, AT_ONCE)
            assert not upstream.requests
            assert not told
            await fetch_kept(mirror, one)
            told.clear()
            requests, hits = len(upstream.requests), mirror.counters.hits.value
            found = await mirror.nar(one.our_url, AT_ONCE)
            assert found is not None
            with found:
                assert found.file is not None
                assert found.etag == Hash.of(one.file).nix32
            assert (len(upstream.requests), mirror.counters.hits.value) == (requests, hits + 1)
            assert told == [one.hash_part]

    async def test_a_file_that_the_catalog_does_not_have_is_entered_behind_the_answer(
        self, upstream: FaultUpstream, disk_path: Path
    ) -> None:
        """A process ended between the file and its row."""
        one, other = package(), package(1)
        upstream.serve(one)
        upstream.serve(other)
        async with mirror_of(upstream, directory=disk_path) as mirror:
            await mirror.narinfo(one.hash_part)
            await put_file(mirror, one)
            await fetch_kept(mirror, other)  # from now on it is not known any more what the catalog has of `one`
            assert named(disk_path) == {other.hash_part}
            found = await mirror.nar(one.our_url, AT_ONCE)
            assert found is not None
            found.release()
            await settle(mirror)
            assert named(disk_path) == {one.hash_part, other.hash_part}
            assert not mirror._nars._unsure

    async def test_an_unforeseen_error_behind_an_answer_keeps_no_other_file_from_being_entered(
        self, upstream: FaultUpstream, disk_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After the first such error no file was looked up behind its answer any more, until a new start."""
        one, two, three, other = (package(seed) for seed in range(4))
        for each in (one, two, three, other):
            upstream.serve(each)

        asked_for: list[str] = []

        def told(hash_part: str) -> None:
            asked_for.append(hash_part)
            # The first call is for the request, the second for the entry behind its answer.
            if asked_for.count(one.hash_part) == 2 and hash_part == one.hash_part:
                raise ValueError("unforeseen by the mirror")

        async with mirror_of(upstream, directory=disk_path) as mirror:
            for each in (one, two, three):
                await mirror.narinfo(each.hash_part)
                await put_file(mirror, each)
            await fetch_kept(mirror, other)
            mirror.on_kept = told
            for some in ((one, two), (three,)):
                for each in some:
                    found = await mirror.nar(each.our_url, AT_ONCE)
                    assert found is not None
                    found.release()
                await settle(mirror)
            assert named(disk_path) == {each.hash_part for each in (one, two, three, other)}
            assert not mirror._nars._unsure
        assert "unforeseen by the mirror" in caplog.text

    async def test_a_file_that_is_known_to_have_no_row_is_left_to_the_request_that_enters_it(
        self, upstream: FaultUpstream, disk_path: Path
    ) -> None:
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=disk_path) as mirror:
            await mirror.narinfo(one.hash_part)
            assert (await mirror._kept.find(key_of(one.our_url))).facts is None
            await put_file(mirror, one)
            with pytest.raises(NotAtOnce):
                await mirror.nar(one.our_url, AT_ONCE)
            assert await fetch(mirror, one) == one.file
            assert named(disk_path) == {one.hash_part}
            found = await mirror.nar(one.our_url, AT_ONCE)
            assert found is not None
            found.release()


class TestWrongNars:
    @pytest.mark.parametrize(
        "make",
        [
            lambda _: package(9).file,
            lambda one: one.file[:-1],
            lambda one: one.file[:1000],
            lambda one: one.file + b"x",
            lambda _: b"",
            lambda one: b"\0" * len(one.file),
            lambda one: COMPRESS["gzip"](one.nar),
            lambda one: COMPRESS["xz"](one.nar + b"more"),
            lambda _: COMPRESS["xz"](bytes(20_000_000)),
        ],
    )
    @pytest.mark.parametrize("with_file_hash", [True, False])
    @pytest.mark.parametrize("keeps", [True, False])
    async def test_it_is_cut_and_never_kept_and_its_last_byte_never_comes(
        self,
        upstream: FaultUpstream,
        tmp_path: Path,
        *,
        make: Callable[[Package], bytes],
        with_file_hash: bool,
        keeps: bool,
    ) -> None:
        one = replace(package(size=300_000), with_file_hash=with_file_hash)
        upstream.serve(one)
        wrong = make(one)
        upstream.answers[f"/{one.path}"] = body(wrong)
        async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
            with pytest.raises(HarmoniaError):
                await fetch(mirror, one)
            await settle(mirror)
            if keeps:
                assert kept(tmp_path) == leftovers(tmp_path) == []

    async def test_files_that_wait_for_the_disk_hold_up_no_other(
        self, upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Four large NARs on their way to a slow disk once took every thread, and no other download went on."""
        packages = [package(number, size=400_000, compression="none") for number in range(8)]
        upstream.serve(*packages)
        durable = threading.Event()
        monkeypatch.setattr(os, "fdatasync", lambda _: durable.wait(30))
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            try:
                async with asyncio.timeout(20):
                    for one in packages:
                        assert await fetch(mirror, one) == one.file
            finally:
                durable.set()
            await settle(mirror)
            assert len([name for name in kept(tmp_path) if ".nar" in name and "narinfo" not in name]) == len(packages)

    async def test_what_is_small_and_wrong_is_refused_before_its_first_byte(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package(size=50_000, compression="none")
        upstream.serve(one)
        upstream.answers[f"/{one.path}"] = body(one.file[:-1] + b"x")
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            with pytest.raises(HarmoniaError):
                await mirror.nar(one.our_url)

    async def test_what_is_small_has_the_same_validator_at_once_and_later(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package(size=5000, compression="none")
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            at_once = await mirror.nar(one.our_url)
            await settle(mirror)
            later = await mirror.nar(one.our_url)
            assert at_once is not None
            assert later is not None
            with at_once, later:
                assert (at_once.etag, at_once.size) == (later.etag, later.size)
                assert later.file is not None

    async def test_a_download_that_is_cut_is_resumed(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        one = package(size=3_000_000)
        upstream.serve(one)
        upstream.answers[f"/{one.path}"] = file_with_ranges(one.file, cuts=3, cut_after=400_000)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await fetch(mirror, one) == one.file
        first, *rest = [request.headers.get("range") for request in upstream.requests if "/nar/" in request.path]
        assert first is None
        starts = [int((part or "").removeprefix("bytes=").removesuffix("-")) for part in rest]
        assert len(starts) == 3
        assert starts == sorted(set(starts))
        assert upstream.requests[-1].headers["if-range"] == '"tag"'

    async def test_a_file_that_changed_meanwhile_is_not_pieced_together(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package(size=3_000_000)
        upstream.serve(one)
        first = file_with_ranges(one.file, cuts=1, cut_after=400_000)

        async def changes(connection: Connection) -> None:
            await first(connection)
            upstream.answers[f"/{one.path}"] = file_with_ranges(package(9, size=3_000_000).file, etag='"other"')

        upstream.answers[f"/{one.path}"] = changes
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            with pytest.raises(HarmoniaError):
                await fetch(mirror, one)


class TestStale:
    async def test_when_nobody_can_tell_a_copy_whose_nar_is_kept_is_served(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        whole, seen = package(1), package(2)
        upstream.serve(whole, seen)
        async with mirror_of(upstream, directory=tmp_path, narinfo_ttl=0.0) as mirror:
            await fetch_kept(mirror, whole)
            await mirror.narinfo(seen.hash_part)
            await upstream.stop()
            found = await mirror.narinfo(whole.hash_part)
            assert found is not None
            assert found.origin.label == "stale"
            assert await fetch(mirror, whole) == whole.file
            # A narinfo that leads to nothing would stop a client that could go on to the next cache.
            with pytest.raises(NoUpstreamAnswered):
                await mirror.narinfo(seen.hash_part)

    async def test_what_the_upstream_has_collected_is_still_served_from_here(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path, narinfo_ttl=0.0) as mirror:
            await fetch_kept(mirror, one)
            upstream.answers.clear()
            found = await mirror.narinfo(one.hash_part)
            assert found is not None
            assert found.origin.label == "kept"

    async def test_an_absence_that_was_told_before_does_not_hide_what_has_come_since(
        self, upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the storage was asked for the file, another request got the narinfo: it was forgotten for 30 s."""
        one = package()
        upstream.answers[f"/{one.hash_part}.narinfo"] = body(one.narinfo_text, Cache_Control="max-age=0")
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await mirror.narinfo(one.hash_part) is not None
            upstream.answers.clear()
            has, asked, go_on = mirror._kept.has, asyncio.Event(), asyncio.Event()

            async def has_slowly(key: BlobKey) -> bool:
                asked.set()
                await go_on.wait()
                return await has(key)

            monkeypatch.setattr(mirror._kept, "has", has_slowly)
            first = asyncio.create_task(mirror.narinfo(one.hash_part))
            await asked.wait()
            upstream.serve(one)
            assert await mirror.narinfo(one.hash_part) is not None
            go_on.set()
            assert await first is not None
            assert await mirror.narinfo(one.hash_part) is not None

    async def test_offline_serves_what_is_kept_and_asks_nobody(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        one, other = package(1), package(2)
        upstream.serve(one, other)
        async with mirror_of(upstream, directory=tmp_path, narinfo_ttl=0.0) as mirror:
            await fetch_kept(mirror, one)
        asked = len(upstream.requests)
        async with mirror_of(upstream, directory=tmp_path, narinfo_ttl=0.0, offline=True) as mirror:
            assert await mirror.narinfo(one.hash_part) is not None
            assert await fetch(mirror, one) == one.file
            assert await mirror.narinfo(other.hash_part) is None
            assert await fetch(mirror, other) is None
            assert await mirror.document(DocumentKind.LISTING, one.hash_part) is None
        assert len(upstream.requests) == asked

    @pytest.mark.parametrize("in_bucket", [False, True])
    async def test_a_file_that_is_whole_and_has_no_row_is_entered_when_it_is_asked_for(
        self, upstream: FaultUpstream, tmp_path: Path, double: S3Double, *, in_bucket: bool
    ) -> None:
        """A process was killed between the two: in a bucket the file had no row for ever, and was not offered."""
        one = package()
        upstream.serve(one)
        async with S3Blobs(double.settings()) as bucket:

            @contextlib.asynccontextmanager
            async def mirroring(*, offline: bool = False) -> AsyncIterator[Mirror]:
                async with mirror_of(upstream, directory=tmp_path, offline=offline) as mirror:
                    if in_bucket:
                        mirror._intake.storage.blobs = bucket
                    yield mirror

            async with mirroring() as mirror:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(NarinfoIndex, "enter", nothing_is_entered)
                    await fetch_kept(mirror, one)
                assert one.hash_part not in named(tmp_path)
            async with mirroring() as mirror:
                assert await mirror.narinfo(one.hash_part) is not None
                assert await fetch_kept(mirror, one) == one.file
            assert upstream.count("/nar/") == 1
            async with mirroring(offline=True) as mirror:
                assert await mirror.narinfo(one.hash_part) is not None

    @pytest.mark.parametrize("error", [asyncio.CancelledError, HarmoniaError])
    async def test_a_client_that_leaves_while_a_file_is_entered_leaves_nothing_open(
        self, upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
    ) -> None:
        """The file stayed open, and where readers are counted it could not be deleted any more."""
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            with monkeypatch.context() as patch:
                patch.setattr(NarinfoIndex, "enter", nothing_is_entered)
                await fetch_kept(mirror, one)

            async def fail(_: object) -> bool:
                raise error

            storage, is_open = mirror._intake.storage, list[bool]()
            open_blob = storage.open

            async def note(key: BlobKey) -> Blob | None:
                blob = await open_blob(key)
                assert blob is not None
                is_open.append(True)

                def release() -> None:
                    is_open.remove(True)
                    blob.release()

                return replace(blob, release=release)

            monkeypatch.setattr(storage, "open", note)
            monkeypatch.setattr(mirror._kept, "has", fail)
            with pytest.raises(error):
                await mirror.nar(one.our_url)
            assert not is_open

    async def test_a_nar_that_was_evicted_is_fetched_again_under_its_old_url(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one = package()
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            await fetch_kept(mirror, one)
        for file in (tmp_path / "blobs").glob("*/*"):
            file.unlink()
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await fetch(mirror, one) == one.file
        assert upstream.count("/nar/") == 2


class TestRecoding:
    @pytest.mark.parametrize("compression", sorted(COMPRESS))
    async def test_what_is_kept_becomes_zstd_and_its_first_url_goes_on_to_work(
        self, upstream: FaultUpstream, tmp_path: Path, compression: str
    ) -> None:
        one = package(size=3_000_000, compression=compression)
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path, recode=True) as mirror:
            assert await fetch_kept(mirror, one) == one.file
            found = await mirror.narinfo(one.hash_part)
            assert found is not None
            assert (found.narinfo.compression, found.origin.label) == ("zstd", "kept")
            coded = await fetch(mirror, NarUrl(one.hash_part, one.path_info.nar_hash, "zstd"))
            assert coded is not None
            assert zstd.decompress(coded) == one.nar
            assert (found.narinfo.file_hash, found.narinfo.file_size) == (Hash.of(coded), len(coded))
            assert len(kept(tmp_path)) == 1
            assert await fetch_kept(mirror, one) == one.file

    async def test_what_is_evicted_before_its_turn_is_not_re_coded_and_can_be_later(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        """The file that was to be made stayed begun, and no other request could make it."""
        one = package(size=100_000)
        upstream.serve(one)
        wanted = NarUrl(one.hash_part, one.path_info.nar_hash, "zstd")
        async with mirror_of(upstream, directory=tmp_path, recode=True) as mirror:
            recoding = mirror._recoding
            assert recoding is not None
            async with recoding._turn:
                assert await fetch(mirror, one) == one.file
                await mirror.idle()
                (entry,) = [found for found in [await mirror.index.find(one.hash_part)] if found is not None]
                await mirror._kept.forget(key_of(entry.url))
                await mirror.index.look(entry)
                assert entry.facts is None
            await settle(mirror)
            coded = await fetch(mirror, wanted)
            assert coded is not None
            assert zstd.decompress(coded) == one.nar

    async def test_what_has_rotted_is_not_re_coded(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        one = package(size=3_000_000)
        upstream.serve(one)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            await fetch_kept(mirror, one)
        file = next((tmp_path / "blobs").glob("*/*.nar.xz"))
        with file.open("r+b") as stream:
            stream.seek(100)
            stream.write(b"rot")
        async with mirror_of(upstream, directory=tmp_path, recode=True, narinfo_ttl=0.0) as mirror:
            entry = await mirror.index.find(one.hash_part)
            assert entry is not None
            await mirror._nars._enter(entry, entry.url)
            await settle(mirror)
        assert leftovers(tmp_path) == []
        assert not [name for name in kept(tmp_path) if name.endswith(".zst")]


class TestDocuments:
    async def test_logs_and_listings_come_through_and_are_kept(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        derivation = package(3).path_info.store_path
        upstream.answers[f"/log/{derivation}"] = body(b"built\n")
        upstream.answers[f"/{package().hash_part}.ls"] = body(b'{"version":1}')
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            for _ in range(2):
                log = await mirror.document(DocumentKind.LOG, derivation)
                listing = await mirror.document(DocumentKind.LISTING, package().hash_part)
                for found, expected in ((log, b"built\n"), (listing, b'{"version":1}')):
                    assert found is not None
                    with found:
                        assert await read_all(found.pieces(0, found.size)) == expected
                await settle(mirror)
                await upstream.stop()
            assert len(upstream.requests) == 2

    @pytest.mark.parametrize("encoding", ["br", "gzip", "zstd", "xz"])
    @pytest.mark.parametrize("keeps", [True, False])
    async def test_what_the_upstream_keeps_encoded_is_decoded(
        self, upstream: FaultUpstream, tmp_path: Path, *, encoding: str, keeps: bool
    ) -> None:
        """cache.nixos.org sends its logs and listings with brotli, whatever the client accepts."""
        log = b"line\n" * 100_000
        derivation = package(3).path_info.store_path
        upstream.answers[f"/log/{derivation}"] = body(COMPRESS[encoding](log), Content_Encoding=encoding)
        async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
            found = await mirror.document(DocumentKind.LOG, derivation)
            assert found is not None
            with found:
                assert await read_all(found.pieces(0, found.size)) == log

    async def test_an_encoding_nobody_knows_is_an_error(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        derivation = package(3).path_info.store_path
        upstream.answers[f"/log/{derivation}"] = body(b"x", Content_Encoding="rot13")
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            with pytest.raises(HarmoniaError):
                await mirror.document(DocumentKind.LOG, derivation)


class TestRealisations:
    OLD = DrvOutput.parse(f"sha256:{'0' * 64}!out")
    NEW = DrvOutput.of(StorePath.parse(f"{'0' * 32}-x.drv"), "out")

    @pytest.mark.parametrize(
        ("output", "url"),
        [(OLD, f"/realisations/sha256:{'0' * 64}!out.doi"), (NEW, f"/build-trace-v2/{'0' * 32}-x.drv/out.doi")],
    )
    async def test_a_signed_one_comes_through_and_is_kept(
        self, upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: DrvOutput, url: str
    ) -> None:
        unsigned = Realisation(id=output, out_path=package().path_info.store_path)
        good = replace(unsigned, signatures=(KEY.sign(unsigned.fingerprint()),))
        text = good.format_old() if output is self.OLD else good.format_new()
        upstream.answers[url] = body(text)
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            threads = note_threads(monkeypatch, good.out_path)
            assert await mirror.realisation(output) == good
            assert threads
            assert threading.main_thread() not in threads, "a megabyte of brackets would hold up the event loop"
            await settle(mirror)
            await upstream.stop()
            assert await mirror.realisation(output) == good

    async def test_one_that_nobody_signed_or_of_another_output_is_not_served(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        url = f"/realisations/{self.OLD}.doi"
        unsigned = Realisation(id=self.OLD, out_path=package().path_info.store_path)
        upstream.answers[url] = body(unsigned.format_old())
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            assert await mirror.realisation(self.OLD) is None
        other = replace(unsigned, id=DrvOutput.parse(f"sha256:{'1' * 64}!out"))
        upstream.answers[url] = body(replace(other, signatures=(KEY.sign(other.fingerprint()),)).format_old())
        async with mirror_of(upstream, directory=tmp_path) as mirror:
            with pytest.raises(NoUpstreamAnswered):
                await mirror.realisation(self.OLD)


async def nothing_is_entered(*_: object) -> None:
    """In the place of the rows of a file: its process is killed before they are written."""


async def _download(mirror: Mirror, one: Package) -> Download:
    found = await mirror.nar(one.our_url)
    assert found is not None
    return found


def _held_back(upstream: FaultUpstream, one: Package) -> asyncio.Event:
    """Until this is set only the first kilobyte of the NAR comes."""
    gate = asyncio.Event()

    async def slowly(connection: Connection) -> None:
        await connection.respond(one.file[:1000], Content_Length=str(len(one.file)))
        await gate.wait()
        await connection.send(one.file[1000:])

    upstream.answers[f"/{one.path}"] = slowly
    return gate
