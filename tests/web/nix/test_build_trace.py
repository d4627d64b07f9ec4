import json
from pathlib import Path

import pytest
from plain_store import PlainStore

from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import Signature
from harmonia_py.nix.store_path import StorePath

DERIVATION = StorePath.parse(f"{'a' * 32}-hello.drv")
OUT_PATH = StorePath.parse(f"{'b' * 32}-hello")
THEIRS = Signature.parse("theirs-1:" + "A" * 86 + "==")
TARGET = f"/build-trace-v2/{DERIVATION}/out.doi"


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    store = PlainStore(tmp_path)
    output = DrvOutput.of(DERIVATION, "out")
    store.realisations[output] = Realisation(id=output, out_path=OUT_PATH, signatures=(THEIRS,))
    return store


async def test_it_is_the_value_of_a_realisation_without_its_key(store: PlainStore) -> None:
    async with store.site() as site:
        answer = await site.get(TARGET)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.body) == {
            "outPath": OUT_PATH,
            "signatures": [{"keyName": "theirs-1", "sig": "A" * 86 + "=="}],
        }
        assert answer.headers["Cache-Control"] == "max-age=60"  # it may be another one tomorrow
        assert (await site.get(TARGET, If_None_Match=answer.headers["ETag"])).status == 304
        head = await site.request("HEAD", TARGET)
        assert head.headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize(
    "target",
    [f"{DERIVATION}/dev.doi", f"{'c' * 32}-hello.drv/out.doi", f"{DERIVATION}/out", f"{DERIVATION}/", str(DERIVATION)],
)
async def test_what_is_not_known_is_not_here(store: PlainStore, target: str) -> None:
    async with store.site() as site:
        assert (await site.get(f"/build-trace-v2/{target}")).status == 404


@pytest.mark.parametrize(
    "target",
    [
        "hello.drv/out.doi",
        f"{OUT_PATH}/out.doi",
        f"{DERIVATION}/o%20t.doi",
        f"{DERIVATION}/...doi",
        f"{DERIVATION}/{'x' * 212}.doi",
        f"{DERIVATION}/%2e%2e%2fout.doi",
        f"..%2f{DERIVATION}/out.doi",
        f"{DERIVATION[:31]}/out.doi",
        "%00/out.doi",
        f"{DERIVATION}/%ff.doi",
    ],
)
async def test_what_cannot_exist_is_a_bad_request(store: PlainStore, target: str) -> None:
    async with store.site() as site:
        answer = await site.get(f"/build-trace-v2/{target}")
    assert (answer.status, answer.body) in {(400, b"Bad Request\n"), (404, b"Not Found\n")}
    assert answer.headers["Cache-Control"] == "no-store"
    if "%2f" not in target:
        assert answer.status == 400
