"""docs/reference/openapi.yaml says what the routes are and what a running server answers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from described import FILE, Operation, is_api, read_operations
from lab import CaClosure, Lab
from plain_store import PlainStore
from server import Answer, Server, settings_of
from serving import LOG_NAME, PATH

from harmonia_py.cache.tokens import TokenHash
from harmonia_py.config.token_file import add_token
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.web.http_metrics import STATUSES
from harmonia_py.web.routes import Route, attic_routes, push_routes, routes, token_routes

OPERATIONS = read_operations()
ABSENT = "0" * 32
BUILD_ID = "02623eda209c26a59b1a8638ff7752f6b945c26b"


class Store(Lab):
    ca: CaClosure
    debug: str


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(tmp_path_factory.mktemp("lab")) as lab:
        lab.closure = lab.build()
        lab.ca = lab.build_ca()
        symbols = lab.root / "program-debug" / "lib/debug/.build-id" / BUILD_ID[:2]
        symbols.mkdir(parents=True)
        (symbols / f"{BUILD_ID[2:]}.debug").write_bytes(b"\x7fELF")
        lab.debug = lab.add(lab.root / "program-debug").hash_part
        lab.start_daemon()
        yield lab


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = settings_of(store, store.secret_key("key-1")) | {"workers": 1}
    with Server(tmp_path_factory.mktemp("server"), store.env, settings) as server:
        yield server


def cases(server: Server, store: Store) -> Iterator[tuple[str, dict[str, str], dict[str, str], int]]:
    """A name, values of the parameters in the URL, headers, and the status that there is."""
    top, derivation = str(store.closure.top.hash_part), str(store.closure.derivation)
    fields = server.get(f"/{top}.narinfo").body.decode().splitlines()
    nar = next(line for line in fields if line.startswith("URL: ")).removeprefix("URL: nar/")
    found: list[tuple[str, dict[str, str]]] = [
        ("home", {}),
        ("search", {"q": "dependencies"}),
        ("path", {"hash_part": top}),
        ("nix-cache-info", {}),
        ("narinfo", {"hash_part": top}),
        ("narinfo", {"hash_part": top, "json": ""}),
        ("nar", {"file_name": nar}),
        ("nar", {"file_name": f"{top}.nar"}),
        ("ls", {"hash_part": top}),
        ("log", {"derivation": derivation}),
        ("realisations", {"output": realised(store)}),
        ("debuginfo", {"build_id": BUILD_ID}),
        ("serve", {"place": f"{top}/foobar"}),
        ("serve", {"place": f"{top}/"}),
    ]
    for name, values in found:
        yield name, values, {}, 200
        yield name, values, {"Accept-Encoding": "zstd, gzip;q=0.5"}, 200
        yield name, values, {"If-None-Match": "*"}, 304
    for name in ("metrics", "ready", "health", "version"):
        yield name, {}, {"Accept-Encoding": "gzip"}, 200
    for name, values in (found[7], found[8], found[12]):
        yield name, values, {"Range": "bytes=1-2"}, 206
        yield name, values, {"Range": "bytes=9999999-"}, 416
    yield "search", {"q": top}, {}, 302
    yield "serve", {"place": top}, {}, 302
    yield "build-trace-v2", {"derivation": derivation, "output": ".."}, {}, 400
    yield from absent(derivation)


def realised(store: Store) -> str:
    """What Nix up to 2.34 calls the realisation of the output."""
    derivation = store.full(store.ca.top_derivation)
    # From Nix 2.13 on the output must be named.
    told = [
        store.run("nix", "realisation", "info", "--json", name, check=False)
        for name in (derivation, f"{derivation}^out")
    ]
    [realisation] = json.loads(next(one.stdout for one in told if b"sha256:" in one.stdout))
    return str(realisation["id"])


def absent(derivation: str) -> Iterator[tuple[str, dict[str, str], dict[str, str], int]]:
    for name in ("path", "narinfo", "ls"):
        yield name, {"hash_part": ABSENT}, {}, 404
    yield "nar", {"file_name": f"{ABSENT}.nar"}, {}, 404
    yield "log", {"derivation": f"{ABSENT}-absent.drv"}, {}, 404
    yield "realisations", {"output": f"sha256:{'0' * 64}!out"}, {}, 404
    yield "build-trace-v2", {"derivation": derivation, "output": "other"}, {}, 404
    yield "debuginfo", {"build_id": "0" * 40}, {}, 404
    yield "serve", {"place": f"{ABSENT}/x"}, {}, 404


def complaint(operation: Operation, answer: Answer) -> str:
    return operation.complaint(answer.status, {name.lower(): value for name, value in answer.headers.items()})


def test_every_route_is_described_and_nothing_else_is() -> None:
    described = {(operation.name, operation.path) for operation in OPERATIONS.values()}
    there = {(route.name, path_of(route)) for route in routes() if not is_api(route.path)}
    assert described == there


def test_pushes_and_pins_are_described() -> None:
    paths = yaml.safe_load(FILE.read_text())["paths"]
    operations = [(path, one) for path, item in paths.items() for one in item.values()]
    described = {(one["operationId"], path) for path, one in operations if "pushed" in one["tags"]}
    there = {(route.name, path_of(route)) for route in push_routes() if not is_api(route.path)}
    assert described == there - {("push-cache-info", "/push/{place}")}
    answers = {str(status) for status in STATUSES["put"]}
    assert answers <= set(paths["/push/{place}"]["put"]["responses"])


def test_the_push_api_is_described() -> None:
    paths = yaml.safe_load(FILE.read_text())["paths"]
    described = {(path, method.upper()) for path, item in paths.items() if is_api(path) for method in item}
    there = {
        (path_of(route), route.method) for route in (*routes(), *push_routes(), *token_routes()) if is_api(route.path)
    }
    assert described == there


def test_attics_api_is_described() -> None:
    paths = yaml.safe_load(FILE.read_text())["paths"]
    described = {
        (path, method.upper()) for path, item in paths.items() for method, one in item.items() if "Attic" in one["tags"]
    }
    assert described == {(path_of(route), route.method) for route in attic_routes()}


def path_of(route: Route) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", r"{\1}", route.path)


def test_it_refers_to_what_it_has_and_has_what_it_refers_to() -> None:
    text = FILE.read_text()
    components: dict[str, Any] = yaml.safe_load(text)["components"]
    had = {f"{kind}/{name}" for kind, items in components.items() if kind != "securitySchemes" for name in items}
    assert set(re.findall(r"#/components/([\w/]+)'", text)) == had
    assert text.startswith("openapi: 3.1.")


def test_every_path_names_its_parameters() -> None:
    for operation in OPERATIONS.values():
        named = {parameter.name for parameter in operation.parameters if parameter.place == "path"}
        assert set(re.findall(r"\{(\w+)\}", operation.path)) == named


def test_what_is_answered_is_described(server: Server, store: Store) -> None:
    wrong: list[tuple[object, ...]] = []
    seen = set()
    for name, values, headers, status in cases(server, store):
        operation = OPERATIONS[name]
        target = operation.target(**values)
        for method in ("GET", "HEAD"):
            answer = server.request(method, target, headers)
            # A range is defined for GET alone.
            if method == "GET" or "Range" not in headers:
                said = complaint(operation, answer) or (answer.status != status and f"{answer.status}, not {status}")
                wrong += [(method, target, headers, said)] if said else []
        if status < 400 or status == 416:
            wrong += [(target, one.name) for one in operation.parameters if not fits(one.pattern, values, one.name)]
        seen.add((name, str(status)))
    assert not wrong
    # A NAR is elsewhere only with an upstream.
    elsewhere = {"302", "401", "429", "503", "default"}
    described = {(one.name, status) for one in OPERATIONS.values() for status in one.responses}
    # Nix compresses its logs, so their length is not known; its build traces are another test's.
    unseen = {("log", "206"), ("log", "416"), ("build-trace-v2", "200"), ("build-trace-v2", "304")}
    assert {one for one in described - seen if one[1] not in elsewhere} == unseen


async def test_a_build_trace_is_described(tmp_path: Path) -> None:
    """Which Nix tells of from 2.35 on."""
    store = PlainStore(tmp_path)
    output = DrvOutput.of(LOG_NAME, "out")
    store.realisations[output] = Realisation(id=output, out_path=PATH)
    operation = OPERATIONS["build-trace-v2"]
    target = operation.target(derivation=str(LOG_NAME), output="out")
    async with store.site() as site:
        for headers, status in (({}, 200), ({"If-None-Match": "*"}, 304)):
            answer = await site.request("GET", target, headers)
            assert answer.status == status
            assert operation.complaint(status, {name.lower(): value for name, value in answer.headers.items()}) == ""


def fits(pattern: str | None, values: dict[str, str], name: str) -> bool:
    return pattern is None or name not in values or re.search(pattern, values[name]) is not None


def test_other_methods_are_described_by_the_default(server: Server) -> None:
    for operation in OPERATIONS.values():
        if "{" not in operation.path:
            answer = server.request("POST", operation.path)
            assert answer.status == 405
            assert "GET" in answer.headers["Allow"]
            headers = {name.lower(): value for name, value in answer.headers.items()}
            assert operation.responses["default"].complaint(headers) == ""


def test_who_is_turned_away_is_told_as_described(store: Store, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    token, line = TokenHash.generate("laptop")
    add_token(tokens, line)
    settings: dict[str, Any] = settings_of(store) | {"workers": 1, "token_file": str(tokens)}
    settings |= {"limits": {"requests_per_second": 0.001, "burst": 1}}
    with Server(tmp_path, store.env, settings) as server:
        for name in ("version", "nix-cache-info"):
            # Who asks too often is told that first.
            answer = server.get(OPERATIONS[name].path)
            assert answer.status == (401 if name == "version" else 429)
            assert complaint(OPERATIONS[name], answer) == ""
        assert complaint(OPERATIONS["health"], server.get("/health", {"Authorization": "Bearer x"})) == ""
        assert server.get("/health", {"Authorization": f"Bearer {token}"}).status == 200
