"""What holds for every URL alike, and what each says of itself: over a store with one of everything."""

import base64
import bz2
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from plain_store import PlainStore, Site
from serving import PATH as SERVED
from serving import FakeSource, Served
from trees import File, Folder, nar

from harmonia_py import __version__
from harmonia_py.errors import DaemonUnreachable
from harmonia_py.metrics.families.http import HTTP_REQUEST_DURATION
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import SecretKey, Signature
from harmonia_py.nix.store_path import StorePath
from harmonia_py.web.routes import routes

BUILD_ID = "02623eda209c26a59b1a8638ff7752f6b945c26b"
DERIVATION = StorePath.parse(f"{'a' * 32}-hello.drv")
OLD_OUTPUT = DrvOutput.parse(f"sha256:{'ab' * 32}!out")
TREE = Folder({b"file": File(b"contents " * 50), b"program": File(b"#!/bin/sh", executable=True)})
KEYS = (SecretKey.generate("here-2"), SecretKey.generate("here-1"))
ABSENT = "0" * 32
# Of the framework's own making, or different in each answer.
CHANGING = {"Date", "Transfer-Encoding"}


@dataclass(frozen=True, slots=True)
class Everything:
    """A site, and a URL of each route that is answered with 200."""

    site: Site
    store: PlainStore
    path: StorePath
    targets: Mapping[str, str]


def signature(name: str) -> Signature:
    return Signature.parse(f"{name}:{base64.b64encode(bytes(64)).decode()}")


@pytest.fixture
async def everything(tmp_path: Path) -> AsyncIterator[Everything]:
    store = PlainStore(tmp_path)
    path = store.add("hello", TREE)
    info = store.infos[path.hash_part]
    store.infos[path.hash_part] = replace(info, deriver=DERIVATION, signatures=(signature("theirs-1"),))
    debug = Folder({BUILD_ID[:2].encode(): Folder({f"{BUILD_ID[2:]}.debug".encode(): File(b"\x7fELF")})})
    store.add("hello-debug", Folder({b"lib": Folder({b"debug": Folder({b".build-id": debug})})}))
    for output in (OLD_OUTPUT, DrvOutput.of(DERIVATION, "out")):
        store.realisations[output] = Realisation(id=output, out_path=path, signatures=(signature("theirs-1"),))
    log = store.real / "log" / "drvs" / DERIVATION[:2] / DERIVATION[2:]
    log.parent.mkdir(parents=True)
    log.write_bytes(b"a line\n" * 100)
    targets = {
        "home": "/",
        "search": "/search?q=hello",
        "path": f"/path/{path.hash_part}",
        "nix-cache-info": "/nix-cache-info",
        "narinfo": f"/{path.hash_part}.narinfo",
        "nar": f"/nar/{info.nar_hash.nix32}.nar?hash={path.hash_part}",
        "ls": f"/{path.hash_part}.ls",
        "log": f"/log/{DERIVATION}",
        "realisations": f"/realisations/{OLD_OUTPUT}.doi",
        "build-trace-v2": f"/build-trace-v2/{DERIVATION}/out.doi",
        "debuginfo": f"/debuginfo/{BUILD_ID}",
        "serve": f"/serve/{path.hash_part}/file",
        "metrics": "/metrics",
        "ready": "/ready",
        "health": "/health",
        "version": "/version",
        "capabilities": "/api/capabilities",
        "cache": "/api/cache",
    }
    async with store.site(secret_keys=KEYS) as site:
        yield Everything(site, store, path, targets)


def headers_of(answer: Any) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in CHANGING}


def assert_is_an_error(answer: Any, status: int, phrase: str) -> None:
    assert (answer.status, answer.body) == (status, f"{phrase}\n".encode())
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_every_route_is_looked_at_here(everything: Everything) -> None:
    assert set(everything.targets) == {route.name for route in routes()}


async def test_every_url_answers_and_head_has_the_headers_of_get(everything: Everything) -> None:
    site = everything.site
    for target in (*everything.targets.values(), f"{everything.targets['narinfo']}?json"):
        get, head = await site.get(target), await site.request("HEAD", target)
        assert (get.status, head.status, head.body) == (200, 200, b""), target
        # The first request has become a figure.
        ignored = {"Content-Length", "ETag"} if target == "/metrics" else set()
        assert headers_of(head).keys() == headers_of(get).keys()
        for name, value in headers_of(get).items():
            assert name in ignored or head.headers[name] == value, target


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_no_url_knows_another_method(everything: Everything, method: str) -> None:
    for target in everything.targets.values():
        answer = await everything.site.request(method, target, {"Content-Length": "0"})
        assert_is_an_error(answer, 405, "Method Not Allowed")
        assert {word.strip() for word in answer.headers["Allow"].split(",")} == {"GET", "HEAD"}


async def test_what_is_absent_or_unknown_is_the_same_404_everywhere(everything: Everything) -> None:
    other = Hash.of(b"other").nix32
    for target in (
        *(f"/{ABSENT}.narinfo", f"/{ABSENT}.narinfo?json", f"/{ABSENT}.ls", f"/nar/{ABSENT}.nar", f"/path/{ABSENT}"),
        *(f"/nar/{other}.nar?hash={everything.path.hash_part}", f"/nar/{everything.path.hash_part}-{other}.nar"),
        *(f"/nar/{everything.path.hash_part}-{other}.nar.zst", f"/log/{ABSENT}", f"/log/{ABSENT}-x.drv"),
        *(f"/realisations/sha256:{'00' * 32}!out.doi", f"/build-trace-v2/{ABSENT}-x.drv/out.doi"),
        *(f"/debuginfo/{'0' * 40}", f"/serve/{ABSENT}/", f"/serve/{everything.path.hash_part}/none"),
        *("/unknown", "/serve", "/nar", "/log", "/favicon.ico", "/robots.txt", "/.well-known/x", "/metrics/", "//"),
    ):
        assert_is_an_error(await everything.site.get(target), 404, "Not Found")


async def test_what_is_malformed_is_404_without_a_question_to_the_store(everything: Everything) -> None:
    await everything.site.get(everything.targets["debuginfo"])
    everything.store.asked.clear()
    for name in ("x", "0" * 31, "0" * 33, "e" * 32, "A" * 32, f"{ABSENT}%00", "%ff" * 32, f"{ABSENT}%0a"):
        for target in (f"/{name}.narinfo", f"/{name}.ls", f"/nar/{name}.nar", f"/log/{name}", f"/path/{name}"):
            assert_is_an_error(await everything.site.get(target), 404, "Not Found")
        assert_is_an_error(await everything.site.get(f"/realisations/{name}.doi"), 404, "Not Found")
        assert_is_an_error(await everything.site.get(f"/serve/{name}/file"), 404, "Not Found")
        # What Nix's own servers say of a name that can be none.
        assert_is_an_error(await everything.site.get(f"/build-trace-v2/{name}/out.doi"), 400, "Bad Request")
    assert everything.store.asked == []


async def test_no_refusal_is_one_that_stays(everything: Everything) -> None:
    """Nix takes 401, 403 and 410 for answers about a path, and remembers them."""
    for target in ("/nothing", f"/{ABSENT}.narinfo", f"/serve/{everything.path.hash_part}/../..", "/nar/../../etc"):
        assert (await everything.site.get(target)).status in {400, 404}


class Unreachable(PlainStore):
    """A store that cannot be asked."""

    async def path_info(self, _hash_part: object) -> Any:
        raise DaemonUnreachable("/nix/var/nix/daemon-socket/socket: connection refused")

    async def realisation(self, _output: object) -> Any:
        raise DaemonUnreachable("/nix/var/nix/daemon-socket/socket: connection refused")


async def test_who_cannot_tell_does_not_say_absent(everything: Everything, tmp_path: Path) -> None:
    """Nix remembers a 404 for an hour; a 503 makes it ask another time."""
    (tmp_path / "other").mkdir()
    asking = ("narinfo", "nar", "ls", "path", "serve", "realisations", "build-trace-v2")
    unreachable = Unreachable(tmp_path / "other")
    # Of what has no name in its directory it could tell.
    assert unreachable.add("hello", TREE) == everything.path
    async with unreachable.site() as site:
        for name, target in everything.targets.items():
            answer = await site.get(target)
            if name in asking:
                assert_is_an_error(answer, 503, "Service Unavailable")
                assert 0 < int(answer.headers["Retry-After"]) <= 10
            assert b"socket" not in answer.body
        for name in ("nix-cache-info", "health", "version", "home", "metrics"):
            assert (await site.get(everything.targets[name])).status == 200


async def test_a_range_beyond_the_end_is_an_error_like_others(everything: Everything) -> None:
    size = len(nar(TREE))
    answer = await everything.site.get(everything.targets["nar"], Range=f"bytes={size}-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{size}"
    assert answer.headers["Cache-Control"] == "no-store"


FIELDS = ("StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver")


async def test_a_narinfo_has_its_fields_in_the_order_of_nix(everything: Everything) -> None:
    answer = await everything.site.get(everything.targets["narinfo"])
    text = answer.body.decode()
    assert text.endswith("\n")
    lines = [line.split(": ", 1) for line in text.splitlines()]
    assert [name for name, _ in lines] == [*FIELDS, "Sig", "Sig", "Sig"]
    assert [value.partition(":")[0] for name, value in lines if name == "Sig"] == ["here-1", "here-2", "theirs-1"]
    fields = dict(lines)
    assert fields["References"] == ""
    assert (fields["FileHash"], fields["FileSize"]) == (fields["NarHash"], fields["NarSize"])
    assert fields["Compression"] == "none"
    assert answer.headers["Nix-Link"] == fields["URL"]
    assert (await everything.site.get(f"/{fields['URL']}")).body == nar(TREE)


async def test_every_shape_of_a_nars_url_is_the_same_nar_and_may_be_kept_for_ever(everything: Everything) -> None:
    path, nar_hash = everything.path.hash_part, Hash.of(nar(TREE)).nix32
    etags = set()
    for target in (f"/nar/{nar_hash}.nar?hash={path}", f"/nar/{path}-{nar_hash}.nar", f"/nar/{path}.nar"):
        answer = await everything.site.get(target)
        assert answer.body == nar(TREE)
        assert answer.headers["Content-Type"] == "application/x-nix-archive"
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        etags.add(answer.headers["ETag"])
    assert len(etags) == 1
    assert not etags.pop().startswith("W/")
    for name, target in everything.targets.items():
        kept = (await everything.site.get(target)).headers["Cache-Control"]
        assert ("immutable" in kept) == (name == "nar"), (name, kept)


async def test_a_listing_is_compact_json(everything: Everything) -> None:
    text = (await everything.site.get(everything.targets["ls"])).body.decode()
    listing = json.loads(text)
    assert text == json.dumps(listing, separators=(",", ":"), ensure_ascii=False)
    assert listing["version"] == 1
    entries = listing["root"]["entries"]
    assert entries["program"]["executable"] is True
    offset = entries["file"]["narOffset"]
    assert nar(TREE)[offset:].startswith(b"contents ")


async def test_realisations_carry_our_signatures_in_either_form_and_are_not_kept_for_long(
    everything: Everything,
) -> None:
    old = await everything.site.get(everything.targets["realisations"])
    fields = json.loads(old.body)
    assert fields["id"] == str(OLD_OUTPUT)
    assert [text.partition(":")[0] for text in fields["signatures"]] == ["here-1", "here-2", "theirs-1"]
    new = await everything.site.get(everything.targets["build-trace-v2"])
    fields = json.loads(new.body)
    assert fields["outPath"] == str(everything.path)
    assert [one["keyName"] for one in fields["signatures"]] == ["here-1", "here-2", "theirs-1"]
    for answer in (old, new):
        found = re.fullmatch(r"max-age=(\d+)", answer.headers["Cache-Control"])
        assert found is not None
        assert int(found[1]) <= 300


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_log_is_text_whoever_asks_how_and_also_of_a_derivation_that_is_gone(
    everything: Everything, *, compressed: bool
) -> None:
    """Harmonia sends `Content-Encoding: bzip2` to clients that accept it, a coding that Nix does not undo."""
    logs = everything.store.real / "log" / "drvs" / DERIVATION[:2]
    if compressed:
        (logs / DERIVATION[2:]).unlink()
        (logs / f"{DERIVATION[2:]}.bz2").write_bytes(bz2.compress(b"a line\n" * 100))
    assert DERIVATION.hash_part not in everything.store.infos
    for target in (f"/log/{DERIVATION}", f"/log/{DERIVATION.hash_part}"):
        answer = await everything.site.get(target, Accept_Encoding="bzip2, identity")
        assert (answer.status, answer.body) == (200, b"a line\n" * 100)
        assert answer.headers["Content-Encoding"] is None
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_what_the_small_ones_say(everything: Everything) -> None:
    site = everything.site
    info = (await site.get("/nix-cache-info")).body.decode()
    assert info == f"StoreDir: {everything.store.store_dir}\nWantMassQuery: 1\nPriority: 30\n"
    assert (await site.get("/health")).body == b"OK\n"
    assert (await site.get("/version")).body == f"harmonia-py {__version__}\n".encode()


async def test_the_figures_of_harmonia_are_there_with_its_buckets() -> None:
    assert list(HTTP_REQUEST_DURATION.buckets) == [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0]
    async with Served(FakeSource()) as served:
        assert (await served.get(f"/{SERVED.hash_part}.narinfo")).status == 200
        text = (await served.get("/metrics")).body.decode()
    series = r'harmonia_http_request_duration_seconds_bucket\{method="GET",path="narinfo",status="200",le="([^"]+)"\}'
    bounds = [float(bound) for bound in re.findall(series, text)]
    assert bounds == [*HTTP_REQUEST_DURATION.buckets, float("inf")]
    assert all(one < other for one, other in pairwise(bounds))
    assert 'harmonia_http_requests_total{method="GET",path="narinfo",status="200"} 1\n' in text


@pytest.mark.parametrize("suffix", [".zst", ".xz", ".bz2", ".gz"])
async def test_a_compressed_nar_is_not_coded_on_top(suffix: str) -> None:
    """It would take time for nothing, and a client that resumes would mix two representations."""
    source = FakeSource(nar_bytes=b"all the same " * 1000)
    target = f"/nar/{SERVED.hash_part}-{Hash.of(source.nar_bytes).nix32}.nar{suffix}"
    async with Served(source) as served:
        for accept in ("zstd", "gzip", "*", "identity;q=0, gzip"):
            answer = await served.get(target, {"Accept-Encoding": accept})
            assert (answer.status, answer.body) == (200, source.nar_bytes)
            assert answer.headers["Content-Encoding"] is None
            assert answer.headers["Accept-Ranges"] == "bytes"
