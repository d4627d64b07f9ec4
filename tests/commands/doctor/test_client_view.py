"""The view from outside, on caches made of bytes with one fault each, and on real ones, which are judged fairly."""

import asyncio
import email.utils
import gzip
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trees
from fault_upstream import KEY, OTHER_KEY, STORE_DIR, Connection, body, hang, package, refuse, signed, status
from faulty_cache import CACHE_INFO, FaultyCache, bad, faulty_cache, look, ranged
from lab import Lab
from msgspec.structs import replace
from nginx import Nginx
from server import Server, settings_of

from harmonia_py.commands.doctor import cache_info, client_view, nar, remote
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.signing import PublicKey


async def look_at(cache: FaultyCache) -> list[tuple[str, str, str]]:
    return bad(await look(cache.url, cache.package.hash_part))


@pytest.mark.parametrize("compression", ["none", "zstd", "xz", "gzip", "bzip2"])
async def test_nothing_is_wrong_with_a_good_cache(compression: str) -> None:
    async with faulty_cache(compression) as cache:
        findings = await look(cache.url, cache.package.hash_part)
    assert bad(findings) == []
    assert {one.check for one in findings} == {
        *("connection", "nix-cache-info", "priority", "clock", "narinfo", "signature", "HEAD", "NAR", "ranges"),
        *("absent path", "malformed hash", "keep-alive"),
        *(() if compression == "none" else ("encoding",)),
    }


async def test_a_path_to_try_is_found_among_those_of_the_store() -> None:
    async with faulty_cache() as cache:
        absent = type(cache.package.hash_part)("0" * 32)
        findings = await look(cache.url, None, candidates=[absent, cache.package.hash_part])
        assert bad(findings) == []
        assert any(one.check == "NAR" for one in findings)
        assert bad(await look(cache.url, None, candidates=[absent])) == [
            (
                "narinfo",
                "warning",
                "of 1 paths of this machine's store it has none, so NARs and signatures were not tested",
            )
        ]
        (nothing,) = bad(await look(cache.url, None))
        assert nothing[2].startswith("there is no store here")


class TestCacheInfo:
    @pytest.mark.parametrize("code", [401, 403, 404, 500, 502])
    async def test_a_cache_that_does_not_say_what_it_is_is_asked_nothing_more(self, code: int) -> None:
        async with faulty_cache() as cache:
            cache.answers["/nix-cache-info"] = status(code)
            assert await look_at(cache) == [("nix-cache-info", "failure", f"answers {code}")]
            assert cache.count("narinfo") == 0

    @pytest.mark.parametrize(
        ("first", "later", "verdict", "words"),
        [
            (0.02, 0.02, "ok", "it answers, in 20 ms"),
            (3.3, 0.02, "ok", "it answers, in 20 ms; the first time in 3300 ms"),
            (3.3, 2.1, "warning", "its answers take 2100 ms"),
        ],
    )
    def test_a_server_is_slow_when_it_answers_late_a_second_time(
        self, first: float, later: float, verdict: str, words: str
    ) -> None:
        """Where the first connection starts the service the doctor said that the server is slow."""
        answer = remote.Answer(200, {}, CACHE_INFO, True, first, "http://x/nix-cache-info", 0)
        (finding,) = cache_info.judge_way(answer, replace(answer, seconds=later), "http://x")
        assert (finding.verdict.value, finding.what) == (verdict, words)

    @pytest.mark.parametrize(("limit", "asked"), [(0.0, 2), (60.0, 1)])
    async def test_it_is_asked_a_second_time_when_the_first_answer_was_late(
        self, limit: float, asked: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache_info, "_SLOW_SECONDS", limit)
        async with faulty_cache() as cache, remote.Remote(cache.url) as place:
            answers = await cache_info.ask(place)
            assert cache.count("nix-cache-info") == asked
        assert (answers[0] is answers[1]) == (asked == 1)

    async def test_another_store_dir(self) -> None:
        async with faulty_cache() as cache:
            cache.answers["/nix-cache-info"] = body(b"StoreDir: /gnu/store\nPriority: 30\n")
            first = (await look_at(cache))[0]
        assert first[:2] == ("nix-cache-info", "failure")
        assert "its StoreDir is /gnu/store, not /nix/store" in first[2]

    async def test_another_site(self) -> None:
        async with faulty_cache() as cache:
            cache.answers["/nix-cache-info"] = body(b"<html>hello\x1b[31m</html>", Content_Type="text/html")
            assert (await look_at(cache))[0] == (
                "nix-cache-info",
                "failure",
                "says something else: '<html>hello</html>'",
            )

    @pytest.mark.parametrize(("priority", "words"), [(40, "in no certain order with"), (50, "after")])
    async def test_a_priority_that_makes_it_second_to_the_official_cache(self, priority: int, words: str) -> None:
        async with faulty_cache() as cache:
            cache.answers["/nix-cache-info"] = body(CACHE_INFO.replace(b"30", str(priority).encode()))
            ((check, verdict, what),) = await look_at(cache)
        assert (check, verdict) == ("priority", "warning")
        assert words in what

    async def test_a_clock_that_is_wrong(self) -> None:
        async with faulty_cache() as cache:
            date = email.utils.formatdate(time.time() - 3600, usegmt=True)
            cache.answers["/nix-cache-info"] = body(CACHE_INFO, Date=date)
            ((check, verdict, what),) = await look_at(cache)
        assert (check, verdict) == ("clock", "warning")
        assert what.startswith("the server's is 3600 seconds behind") or "3601" in what

    async def test_a_redirect_is_followed_and_told_of(self) -> None:
        async with faulty_cache() as there, FaultyCache(there.package) as here:
            here.answers.clear()
            here.answers["/nix-cache-info"] = status(302, Location=f"{there.url}/nix-cache-info")
            findings = await look(here.url, None)
        assert ("redirect", "warning", f"{here.url} redirects to {there.url}, for every file anew") in bad(findings)

    async def test_a_redirect_in_circles(self) -> None:
        async with faulty_cache() as cache:
            cache.answers["/nix-cache-info"] = status(302, Location="/nix-cache-info")
            assert await look_at(cache) == [("connection", "failure", "it redirects in circles")]

    async def test_nobody_listens(self) -> None:
        async with faulty_cache() as cache:
            await cache.stop()
            ((check, verdict, what),) = await look_at(cache)
        assert (check, verdict) == ("connection", "failure")
        assert what == f"cannot connect to 127.0.0.1:{cache.port}: connection refused"

    async def test_a_connection_that_is_cut(self) -> None:
        async with faulty_cache() as cache:
            cache.answers["/nix-cache-info"] = refuse
            assert await look_at(cache) == [
                ("connection", "failure", "the connection was cut in the middle of the answer")
            ]

    async def test_a_server_that_hangs_has_a_time_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client_view, "_ASK_SECONDS", 0.2)
        async with faulty_cache() as cache:
            cache.answers["/nix-cache-info"] = hang
            assert await look_at(cache) == [("connection", "failure", "no answer within 0.2 seconds")]

    async def test_https_where_http_is_spoken(self) -> None:
        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            ((check, verdict, what),) = bad(await look(f"https://127.0.0.1:{port}", None))
        assert (check, verdict) == ("connection", "failure")
        assert what.startswith(f"127.0.0.1:{port} does not speak TLS as expected")

    async def test_an_answer_without_end_is_read_up_to_a_limit(self) -> None:
        async with faulty_cache() as cache:
            cache.answers["/nix-cache-info"] = body(CACHE_INFO + b"x" * 10_000_000)
            assert await look_at(cache) == [("nix-cache-info", "failure", "is far too long")]


NARINFO_FAULTS: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda text: text.replace(b"\n", b"\r\n"), "its lines end with CRLF"),
    (lambda text: text[:-1], "it does not end with a line feed"),
    (lambda text: text.replace(b"NarSize", b"\nNarSize"), "it has a blank line"),
    (lambda text: text.replace(b"References: ", b"References:"), "References: the space after the colon is missing"),
    (lambda _: b"<!doctype html>\n<p>hello\n", "the line '<!doctype html>' is no field"),
    (lambda text: text.replace(b"NarHash: ", b"NarHash: sha256:zzz"), "does not parse: "),
    (lambda text: text.replace(b"NarSize: ", b"NarSize: -"), "does not parse: the narinfo has a size that is none"),
    (lambda text: text.replace(b"/nix/store", b"/gnu/store"), "does not parse: not in the store directory"),
]


class TestNarinfo:
    @pytest.mark.parametrize(("damage", "words"), NARINFO_FAULTS)
    async def test_text_that_breaks_clients_is_told_in_words(
        self, damage: Callable[[bytes], bytes], words: str
    ) -> None:
        async with faulty_cache() as cache:
            cache.say(damage(cache.package.narinfo_text))
            ((check, verdict, what),) = await look_at(cache)
        assert (check, verdict) == ("narinfo", "failure")
        assert what.startswith(words)

    async def test_the_narinfo_of_another_path(self) -> None:
        async with faulty_cache() as cache:
            own = cache.package.hash_part
            cache.say(cache.package.narinfo_text.replace(own.encode(), b"1" * 32))
            ((_, verdict, what),) = await look_at(cache)
        assert verdict == "failure"
        assert what.startswith(f"asked for {own}, it tells of {'1' * 32}-")

    async def test_what_is_odd_but_works_is_a_warning(self) -> None:
        async with faulty_cache() as cache:
            lines = [line for line in cache.package.narinfo_text.splitlines() if not line.startswith(b"References")]
            lines = [*lines[1:], lines[0], b"Sig: nonsense", b""]
            cache.say(b"\n".join(lines))
            found = await look_at(cache)
        assert [(check, verdict) for check, verdict, _ in found] == [("narinfo", "warning")] * 3
        assert [what.partition(";")[0] for _, _, what in found] == [
            "it has no line References",
            "its fields are not in Nix's order",
            "it has a malformed signature: 'nonsense'",
        ]

    async def test_a_path_that_is_not_there(self) -> None:
        async with faulty_cache() as cache:
            del cache.answers[f"/{cache.package.hash_part}.narinfo"]
            found = await look_at(cache)
        assert found == [("narinfo", "failure", f"of {cache.package.hash_part}: the answer is 404")]

    async def test_an_encoding_that_nobody_asked_for(self) -> None:
        async with faulty_cache() as cache:
            cache.say(gzip.compress(cache.package.narinfo_text), Content_Encoding="gzip")
            ((check, verdict, what),) = await look_at(cache)
        assert (check, verdict) == ("encoding", "failure")
        assert what.startswith("the narinfo has `Content-Encoding: gzip`, which was not asked for")

    async def test_a_head_that_differs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client_view, "_CHANGE_SECONDS", 0.0)
        async with faulty_cache() as cache:
            url = f"/{cache.package.hash_part}.narinfo"
            get = cache.answers[url]

            async def no_head(connection: Connection) -> None:
                await (status(405) if connection.request.method == "HEAD" else get)(connection)

            cache.answers[url] = no_head
            assert await look_at(cache) == [("HEAD", "failure", "narinfo: 405, and GET 200")]

    async def test_references_that_are_missing(self) -> None:
        async with faulty_cache() as cache:
            info = cache.package.path_info
            missing = type(info.store_path)(f"{'1' * 32}-missing")
            with_reference = replace(cache.package, path_info=replace(info, references=(missing, info.store_path)))
            cache.say(signed(with_reference, KEY).narinfo_text)
            assert await look_at(cache) == [("references", "warning", f"1 of 1 are not there, such as {missing}")]


class TestSignature:
    async def test_none_at_all(self) -> None:
        async with faulty_cache() as cache:
            cache.say(signed(cache.package, None).narinfo_text)
            assert await look_at(cache) == [("signature", "failure", "there is none, so clients refuse the path")]

    async def test_a_wrong_one(self) -> None:
        async with faulty_cache() as cache:
            one = cache.package
            info = replace(one.path_info, nar_hash=Hash.of(b"other"))
            cache.say(replace(one, path_info=info).narinfo_text)
            found = await look_at(cache)
        assert found[0] == ("signature", "failure", "the one by upstream-1 is wrong")
        assert found[1][:2] == ("NAR", "failure")

    async def test_one_by_somebody_else(self) -> None:
        async with faulty_cache() as cache:
            cache.say(signed(cache.package, OTHER_KEY).narinfo_text)
            assert await look_at(cache) == [("signature", "failure", "by other-1, by none of upstream-1")]

    @pytest.mark.parametrize("genuine", [True, False])
    async def test_none_where_the_contents_prove_the_path_or_belie_it(self, *, genuine: bool) -> None:
        """Clients need no signature then, and hold the contents against the content address as well."""
        ca = ContentAddress(Method.TEXT, Hash.of(b"good"))
        data = trees.nar(trees.File(b"good" if genuine else b"evil"))
        unsigned = package(nar=data, compression="zstd", key=None)
        info = replace(unsigned.path_info, store_path=ca.store_path("x", [], STORE_DIR), ca=ca)
        async with FaultyCache(replace(unsigned, path_info=info)) as cache:
            found = await look(cache.url, cache.package.hash_part)
        assert "not needed: the store path is that of its content" in [one.what for one in found]
        assert [check for check, _, what in bad(found) if "not those of its content address" in what] == [
            *(() if genuine else ("NAR",))
        ]

    async def test_without_keys_nobody_can_tell(self) -> None:
        async with faulty_cache() as cache:
            found = bad(await look(cache.url, cache.package.hash_part, keys=()))
        assert found == [("signature", "warning", "by upstream-1; not checked")]


class TestNar:
    async def damaged(self, change: Callable[[bytes], bytes], **headers: str) -> list[tuple[str, str, str]]:
        async with faulty_cache() as cache:
            cache.answers[f"/{cache.package.path}"] = ranged(change(cache.package.file), **headers)
            return await look_at(cache)

    async def test_other_bytes(self) -> None:
        ((check, verdict, what),) = await self.damaged(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
        assert (check, verdict) == ("NAR", "failure")
        assert "it has another FileHash" in what or "does not decompress" in what

    async def test_too_few_bytes(self) -> None:
        ((check, _, what),) = await self.damaged(lambda data: data[:-10])
        assert check == "NAR"
        assert what.endswith("it is shorter than its FileSize")

    async def test_too_many_bytes(self) -> None:
        ((_, _, what),) = await self.damaged(lambda data: data + b"x")
        assert what.endswith("it is longer than its FileSize")

    async def test_absent(self) -> None:
        async with faulty_cache() as cache:
            del cache.answers[f"/{cache.package.path}"]
            found = await look_at(cache)
        assert found == [("NAR", "failure", f"{cache.package.path}: the answer is 404")]

    async def test_cut_in_the_middle(self) -> None:
        async with faulty_cache() as cache:

            async def cut(connection: Connection) -> None:
                await connection.respond(cache.package.file[:1000], Content_Length="100000")
                connection.cut()

            cache.answers[f"/{cache.package.path}"] = cut
            assert await look_at(cache) == [("NAR", "failure", "the connection was cut in the middle of the answer")]

    async def test_a_zstd_file_that_says_it_is_encoded(self) -> None:
        found = await self.damaged(bytes, Content_Encoding="zstd")
        assert [(check, verdict) for check, verdict, _ in found] == [("encoding", "failure"), ("NAR", "failure")]

    async def test_a_proxy_that_compresses_what_is_compressed(self) -> None:
        async with faulty_cache() as cache:
            plain = ranged(cache.package.file)
            encoded = body(gzip.compress(cache.package.file), Content_Encoding="gzip")

            async def proxy(connection: Connection) -> None:
                asked = "gzip" in connection.request.headers.get("accept-encoding", "")
                await (encoded if asked else plain)(connection)

            cache.answers[f"/{cache.package.path}"] = proxy
            ((check, verdict, what),) = await look_at(cache)
        assert (check, verdict) == ("encoding", "warning")
        assert what.startswith("`Content-Encoding: gzip` on what is compressed already")

    async def test_no_ranges(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nar, "_MOMENT_SECONDS", 0.0)
        async with faulty_cache() as cache:
            cache.answers[f"/{cache.package.path}"] = body(cache.package.file)
            assert await look_at(cache) == [("ranges", "warning", "ignored: a download that was cut begins anew")]

    async def test_workers_that_learn_a_moment_later_what_another_has_compressed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first look at a path of our own server said that HEAD and GET differ in the ETag."""
        monkeypatch.setattr(nar, "_MOMENT_SECONDS", 0.0)
        async with faulty_cache() as cache:
            file, heads = cache.package.file, iter(["other", "same", "same"])

            async def worker(connection: Connection) -> None:
                tag = next(heads) if connection.request.method == "HEAD" else "same"
                await ranged(file, ETag=f'"{tag}"')(connection)

            cache.answers[f"/{cache.package.path}"] = worker
            assert await look_at(cache) == []

    async def test_ranges_with_wrong_bytes(self) -> None:
        async with faulty_cache() as cache:
            right, wrong = ranged(cache.package.file), ranged(bytes(len(cache.package.file)))

            async def mixed(connection: Connection) -> None:
                await (wrong if "range" in connection.request.headers else right)(connection)

            cache.answers[f"/{cache.package.path}"] = mixed
            assert await look_at(cache) == [("ranges", "failure", "206 with other bytes than those asked for")]

    async def test_ranges_without_the_header_that_invites_to_them(self) -> None:
        found = await self.damaged(bytes, Accept_Ranges="none")
        assert [(check, verdict) for check, verdict, _ in found] == [("ranges", "warning")]

    async def test_a_nar_that_is_too_large_to_try(self) -> None:
        async with faulty_cache() as cache:
            huge = replace(cache.package, path_info=replace(cache.package.path_info, nar_size=2**40))
            cache.say(signed(huge, KEY).narinfo_text)
            assert await look_at(cache) == [("NAR", "warning", f"{2**40} bytes are too many to try")]
            assert cache.count("nar/") == 0


class TestAbsence:
    @pytest.mark.parametrize(
        ("code", "verdict"),
        [(200, "failure"), (401, "failure"), (403, "warning"), (429, "failure"), (500, "failure"), (400, "failure")],
    )
    async def test_anything_but_404_is_explained(self, code: int, verdict: str) -> None:
        async with faulty_cache() as cache:
            cache.default = status(code)
            found = [one for one in await look_at(cache) if one[0] == "absent path"]
        assert [(one[1], one[2].partition(",")[0]) for one in found] == [
            (verdict, f"GET: {code}"),
            (verdict, f"HEAD: {code}"),
        ]

    async def test_a_404_that_is_remembered_for_too_long(self) -> None:
        async with faulty_cache() as cache:
            cache.default = status(404, Cache_Control="public, max-age=86400")
            found = await look_at(cache)
        assert {(check, verdict) for check, verdict, _ in found} == {("absent path", "warning")}


async def test_connections_that_are_not_kept() -> None:
    async with faulty_cache() as cache:

        async def close(connection: Connection) -> None:
            await connection.respond(CACHE_INFO, Connection="close")
            connection.writer.close()
            connection.closed = True

        cache.answers["/nix-cache-info"] = close
        found = [one for one in await look_at(cache) if one[0] == "keep-alive"]
    assert [verdict for _, verdict, _ in found] == ["warning"]


def keep_nar(server: Server, lab: Lab) -> None:
    """Have the NAR of `top` kept: until then GET and HEAD of it may differ in their validators."""
    target = f"/{lab.closure.top.hash_part}.narinfo"
    (url,) = re.findall("^URL: (.+)$", server.get(target).body.decode(), re.MULTILINE)
    assert server.get(f"/{url}").status == 200
    deadline = time.monotonic() + 30
    while b"FileHash" not in server.get(target).body:
        assert time.monotonic() < deadline


class TestRealCaches:
    async def test_our_own_server_has_nothing_wrong(self, daemon: Lab, tmp_path: Path) -> None:
        """Neither when its NAR is made by the first download, nor when it is kept."""
        key = daemon.secret_key("lab-1")
        with Server(tmp_path, daemon.env, settings_of(daemon, key)) as server:
            for _ in range(2):
                found = await look(
                    server.url,
                    daemon.closure.top.hash_part,
                    keys=[PublicKey.parse(key.public)],
                    store_dir=daemon.store_dir,
                )
                assert bad(found) == []
                assert any(one.check == "reverse proxy" for one in found)

    @pytest.mark.parametrize("compression", ["none", "xz", "zstd"])
    async def test_a_plain_directory_behind_nginx_has_nothing_wrong(
        self, lab: Lab, tmp_path: Path, compression: str
    ) -> None:
        key = lab.secret_key("lab-1")
        cache = tmp_path / "cache"
        to = f"file://{cache}?secret-key={key.secret_file}&compression={compression}"
        lab.nix("copy", "--to", to, lab.full(lab.closure.top))
        with Nginx(tmp_path, cache) as nginx:
            found = await look(
                nginx.url,
                lab.closure.top.hash_part,
                keys=[PublicKey.parse(key.public)],
                store_dir=lab.store_dir,
            )
        assert bad(found) == []

    async def test_a_proxy_that_hides_the_host_is_found(self, daemon: Lab, tmp_path: Path) -> None:
        key = daemon.secret_key("lab-1")
        with Server(tmp_path, daemon.env, settings_of(daemon, key)) as server:
            # A location without a URI of its own: nginx says its own name for the server behind it.
            extra = f"proxy_pass http://127.0.0.1:{server.port}; proxy_set_header Host hidden.example;"
            await asyncio.to_thread(keep_nar, server, daemon)
            with Nginx(tmp_path, tmp_path, extra) as nginx:
                found = await look(
                    nginx.url,
                    daemon.closure.top.hash_part,
                    keys=[PublicKey.parse(key.public)],
                    store_dir=daemon.store_dir,
                )
        assert bad(found) == [
            ("reverse proxy", "warning", f"the page for people does not name {nginx.url}"),
        ]
