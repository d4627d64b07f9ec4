"""`harmonia-py top`, on a real server and on figures that were made up."""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import prefork
import pytest
import terminal
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from rich.console import Console
from server import Server, settings_of

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.cache.tokens import TokenHash
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.cache_gauges import CacheGauges
from harmonia_py.catalog.caches import KeptByCache, KeptByCaches
from harmonia_py.catalog.pushed_housekeeping import CollectionCounters
from harmonia_py.chunks.deduplication import DeduplicationCounters
from harmonia_py.commands.top.reading import NoMetrics, Reading
from harmonia_py.commands.top.screen import _draw
from harmonia_py.commands.top.view import Cache, Chunks, Collection, compare
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Metrics
from harmonia_py.metrics.cache_labels import OTHERS
from harmonia_py.metrics.exposition import format_metrics, parse_metrics
from harmonia_py.metrics.totals import read_figures
from harmonia_py.push.push_metrics import PushCounters

TIME_LIMIT = 60


def reading(metrics: Metrics, seconds: float) -> Reading:
    return Reading(parse_metrics(format_metrics(read_figures(metrics.board))), seconds)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return prefork.run("top", *arguments, cwd=Path.cwd(), env=os.environ)


class TestServer:
    @pytest.fixture
    def server(self, daemon: Lab, tmp_path: Path) -> Iterator[Server]:
        with Server(tmp_path, daemon.env, settings_of(daemon, daemon.secret_key("test-1"))) as server:
            yield server

    def test_once_prints_its_figures(self, server: Server) -> None:
        done = command(server.url, "--once", "--interval", "0.2")
        assert (done.returncode, done.stderr) == (0, "")
        assert server.url in done.stdout
        for word in ("requests/s", "nix-daemon", "worker", "all", "metrics"):
            assert word in done.stdout

    def test_json_is_for_scripts(self, server: Server) -> None:
        done = command(f"{server.url}/metrics", "--once", "--json", "--interval", "0.5")
        assert (done.returncode, done.stderr) == (0, "")
        view = json.loads(done.stdout)
        # The first of its two questions was answered in between.
        assert 0.5 < view["requests_by_path"]["metrics"] * view["seconds"] < 1.5
        assert len(view["workers"]) == 2
        assert view["resident_bytes"] > 30_000_000
        assert 0 < view["uptime"] < TIME_LIMIT

    @pytest.mark.parametrize("key", [b"q", b"xQ"])
    def test_on_a_terminal_it_goes_on_until_q_is_typed(self, server: Server, tmp_path: Path, key: bytes) -> None:
        """Only Ctrl-C ended it."""
        command = ("top", server.url, "--interval", "0.1")
        env = dict(os.environ) | {"TERM": "xterm"}
        typed = (b"requests/s", key)
        seen = terminal.on_a_terminal(command, cwd=tmp_path, env=env, status=0, size=(60, 100), typed=typed)
        assert "q ends" in seen

    def test_a_server_that_is_not_public_wants_the_token_in_a_file(self, daemon: Lab, tmp_path: Path) -> None:
        token, line = TokenHash.generate("somebody")
        (tmp_path / "hashes").write_text(f"{line}\n")
        file = tmp_path / "token"
        file.write_text(f"{token}\n")
        with Server(tmp_path, daemon.env, settings_of(daemon) | {"token_file": f"{tmp_path}/hashes"}) as server:
            done = command(server.url, "--token-file", str(file), "--once", "--json", "--interval", "0.2")
            assert (done.returncode, done.stderr) == (0, "")
            assert len(json.loads(done.stdout)["workers"]) == 2
            done = command(server.url, "--once")
            assert done.returncode == 1
            assert done.stderr.endswith("/metrics: it is not public: --token-file FILE opens it, "
                                        "with the token of one whom it knows\n")  # fmt: skip
            file.write_text("no token at all\x00")
            done = command(server.url, "--token-file", str(file), "--once")
            assert (done.returncode, done.stderr) == (1, f"error: {file}: holds no token\n")


def test_a_token_goes_to_no_other_server_than_the_one_that_was_named() -> None:
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            asked.append((self.headers["Host"], self.headers["Authorization"]))
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{server.server_port}/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the library's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(NoMetrics):
                Reading.of(f"http://127.0.0.1:{server.server_port}", "Bearer secret")
        finally:
            server.shutdown()
            thread.join(TIME_LIMIT)
    assert asked[0] == (f"127.0.0.1:{server.server_port}", "Bearer secret")
    assert len(asked) > 1
    assert {secret for _, secret in asked[1:]} == {None}


def test_nobody_there_is_one_clear_line() -> None:
    done = command("http://127.0.0.1:1", "--once")
    assert done.returncode == 1
    assert done.stderr == "error: http://127.0.0.1:1/metrics: Connection refused\n"


@pytest.mark.parametrize(
    "url", ["ftp://a/", "file:///etc/passwd", "localhost:5000", "http://", "http://[", "http://a b/"]
)
def test_what_is_no_url_is_said_to_be_none(url: str) -> None:
    with pytest.raises(NoMetrics):
        Reading.of(url)


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "x", "1e9"])
def test_an_interval_that_makes_no_sense_is_refused(interval: str) -> None:
    done = command("--interval", interval)
    assert done.returncode == 2
    assert "is not a number from 0.1 to 3600" in done.stderr


@pytest.mark.parametrize("body", [b"<html>", b"other_metric 1\n", b"\xff", b""])
def test_metrics_of_somebody_else_are_not_ours(body: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the library's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.handle_request)
        thread.start()
        try:
            with pytest.raises(NoMetrics):
                Reading.of(f"http://127.0.0.1:{other.server_port}")
        finally:
            thread.join(TIME_LIMIT)


def test_rates_are_per_second_of_what_came_in_between() -> None:
    metrics = Metrics.alone()
    request = metrics.histogram(families.http.HTTP_REQUEST_DURATION, "GET", "narinfo", "200")
    sent = metrics.counter(families.http.HTTP_SENT_BYTES, "narinfo")
    for _ in range(100):
        request.observe(5.0)
    before = reading(metrics, 10.0)
    for _ in range(50):
        request.observe(0.0007)
    sent.add(4000)
    view = compare(before, reading(metrics, 14.0), 0)
    assert view.requests == 12.5
    assert view.requests_by_path == {"narinfo": 12.5}
    assert view.requests_by_status == {"200": 12.5}
    assert view.sent_bytes_by_kind == {"narinfo": 1000}
    assert view.narinfo_p50 is not None
    assert 0.0005 <= view.narinfo_p50 <= 0.001
    assert view.first_byte_p50 is None


def test_a_server_that_was_started_again_has_no_negative_rates() -> None:
    old, new = Metrics.alone(), Metrics.alone()
    old.counter(families.http.HTTP_SENT_BYTES, "nar").add(10**9)
    new.counter(families.http.HTTP_SENT_BYTES, "nar").add(10)
    assert compare(reading(old, 0), reading(new, 1), 0).sent_bytes == 0


def test_pushes_are_shown_by_what_became_of_them_once_there_are_any() -> None:
    metrics = Metrics.alone()
    before = reading(metrics, 1.0)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(_draw(compare(before, reading(metrics, 2.0), 0.0), "http://x"))
    assert "pushed" not in console.export_text()
    counters = PushCounters.on(metrics)
    counters.bytes.add(3_000_000)
    counters.published.add(7)
    counters.kept_first.add(2)
    view = compare(before, reading(metrics, 4.0), 0.0)
    assert (view.pushed_bytes, view.pushed) == (1_000_000.0, {"published": 7.0, "kept_first": 2.0})
    console.print(_draw(view, "http://x"))
    text = console.export_text()
    assert "pushed" in text
    assert "kept first" in text


def test_what_a_collection_has_left_and_freed_is_shown_once_one_has_ended() -> None:
    metrics = Metrics.alone()
    assert compare(reading(metrics, 1.0), reading(metrics, 2.0), 0.0).collection is None
    counters = CollectionCounters.on(metrics)
    counters.bytes.add(5_000_000)
    counters.published.set(70)
    counters.published_bytes.set(9_000_000)
    counters.condemned.set(3)
    counters.pinned.set(2)
    counters.garbage.set(4)
    counters.ended.set(100)
    metrics.gauge(families.kept.QUARANTINED, "pushed").set(1)
    metrics.gauge(families.kept.QUARANTINED, "mirror").set(6)
    view = compare(reading(metrics, 1.0), reading(metrics, 2.0), 190.0)
    assert view.collection == Collection(
        age=90.0, paths=70, size=9_000_000, condemned=3, pinned=2, freed=5_000_000, garbage=4, quarantined=1
    )
    text = drawn(metrics, "http://x")
    assert "collection" in text
    assert "quarantined" in text


def test_each_cache_is_shown_the_most_asked_for_first_once_there_are_several() -> None:
    metrics = Metrics.alone()
    CacheUsage.on(metrics, "default")
    assert "narinfos/s" not in drawn(metrics, "http://x")
    before = reading(metrics, 1.0)
    usage = CacheUsage.on(metrics, "team")
    usage.found.add(6)
    usage.absent.add(2)
    usage.pushed_nars.add(5)
    kept = [KeptByCache(CacheName("team"), 7, 9_000_000, 10**9), KeptByCache(CacheName("large"), 1, 8 * 10**9, None)]
    CacheGauges(metrics).show(KeptByCaches(kept, 3, 1000))
    view = compare(before, reading(metrics, 3.0), 0.0)
    team = Cache("team", paths=7, size=9_000_000, max_size=10**9, narinfos=4.0, found=0.75, pushed_nars=5)
    assert [cache.name for cache in view.caches] == ["team", "large", OTHERS, "default"]
    assert view.caches[0] == team
    lines = drawn(metrics, "http://x").splitlines()
    assert any("narinfos/s" in line and "pushed NARs" in line for line in lines)
    assert any("team" in line and "9.0 MB" in line and "1.0 GB" in line for line in lines)


def test_of_many_caches_the_most_used_are_shown_and_the_rest_is_counted() -> None:
    metrics = Metrics.alone()
    for number in range(50):
        CacheUsage.on(metrics, f"cache-{number:02}").found.add()
    text = drawn(metrics, "http://x")
    assert "cache-11" in text
    assert "cache-12" not in text
    assert "… and 38 caches" in text


def test_what_chunks_save_is_shown_once_there_are_some_in_any_directory() -> None:
    metrics = Metrics.alone()
    nothing = DeduplicationCounters.on(metrics, "mirror")
    nothing.ended.set(50)
    assert compare(reading(metrics, 1.0), reading(metrics, 2.0), 0.0).chunks is None
    counters = DeduplicationCounters.on(metrics, "pushed")
    counters.files.set(7)
    counters.former_bytes.set(9_000_000)
    counters.used_bytes.set(2_000_000)
    counters.unused_bytes.set(500_000)
    counters.waiting.set(3)
    counters.left.add(2)
    counters.errors.add()
    counters.ended.set(100)
    view = compare(reading(metrics, 1.0), reading(metrics, 2.0), 190.0)
    assert view.chunks == Chunks(
        age=90.0, files=7, former=9_000_000, packs=2_500_000, unused=500_000, waiting=3, left=2, errors=1
    )
    text = drawn(metrics, "http://x")
    for shown in ("chunks", "9.0 MB", "2.5 MB", "500.0 kB"):
        assert shown in text


def test_an_upstream_that_is_left_alone_is_seen() -> None:
    metrics = Metrics.alone()
    metrics.gauge(families.upstreams.UPSTREAM_BREAKER, "cache.nixos.org").set(1)
    assert "left alone" in drawn(metrics, "http://a")


def drawn(metrics: Metrics, url: str) -> str:
    console = Console(width=200, file=io.StringIO())
    one = reading(metrics, 0)
    with console.capture() as captured:
        console.print(_draw(compare(one, one, 0), url))
    return captured.get()


@given(st.text(max_size=30))
def test_names_that_a_server_sends_cannot_move_the_cursor_or_pass_for_markup(name: str) -> None:
    metrics = Metrics.alone()
    metrics.gauge(families.upstreams.UPSTREAM_BREAKER, f"[/]\x1b[2J{name}").set(1)
    text = drawn(metrics, "http://[red]\x1b")
    assert "\x1b" not in text
    assert "[/]?[2J" in text


def test_a_quantile_beyond_the_last_bucket_is_its_bound() -> None:
    metrics = Metrics.alone()
    before = reading(metrics, 0)
    metrics.histogram(families.http.HTTP_REQUEST_DURATION, "GET", "narinfo", "200").observe(60)
    assert compare(before, reading(metrics, 1), 0).narinfo_p99 == 1.0


def test_the_daemon_does_not_load_it() -> None:
    """rich takes a tenth of a second to import."""
    code = (
        "import sys, harmonia_py.server.serve;"
        "print([name for name in ('rich', 'harmonia_py.commands.top') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=TIME_LIMIT)
    assert done.stdout == "[]\n"


def test_labels_select() -> None:
    samples = parse_metrics('a{b="1",c="x"} 1\na{b="1",c="y"} 2\na{b="2",c="x"} 4\n')
    one = Reading(samples, 0)
    chosen: Mapping[str, float] = {"b1": one.sum("a", b="1"), "cx": one.sum("a", c="x"), "all": one.sum("a")}
    assert chosen == {"b1": 3, "cx": 5, "all": 7}
    assert one.by("a", "c") == {"x": 5, "y": 2}
