import pytest

from harmonia_py.errors import FormatError
from harmonia_py.push.urls import PushKind, PushUrl

HASH = "26xbg1ndr7hbcncrlf9nhx5is2b25d13"


@pytest.mark.parametrize("run", ["", "r1", "nar", "a b?", "feature%2fx", "7f3c…"])
@pytest.mark.parametrize(
    ("place", "kind", "name"),
    [
        ("nix-cache-info", PushKind.CACHE_INFO, ""),
        (f"{HASH}.narinfo", PushKind.NARINFO, HASH),
        (f"{HASH}.ls", PushKind.LISTING, HASH),
        ("nar/x.nar.zst", PushKind.NAR, "x.nar.zst"),
        (f"log/{HASH}-x.drv", PushKind.LOG, f"{HASH}-x.drv"),
        ("debuginfo/ab.debug", PushKind.DEBUG_FILE, "ab.debug"),
        ("realisations/sha256:ab!out.doi", PushKind.REALISATION, "sha256:ab!out"),
        (f"build-trace-v2/{HASH}-x.drv/out.doi", PushKind.BUILD_TRACE, f"{HASH}-x.drv^out"),
    ],
)
def test_everything_that_nix_pushes_has_a_kind_with_or_without_a_run(
    run: str, place: str, kind: PushKind, name: str
) -> None:
    assert PushUrl.parse(f"{run}/{place}" if run else place) == PushUrl(kind, name, run)


@pytest.mark.parametrize(
    "place",
    [
        *("", "/", "nar", "r1/r2/nar/x.nar", f"a/b/{HASH}.narinfo", f"/{HASH}.narinfo", "r1//nar/x"),
        *("realisations/x", "build-trace-v2/x.doi", "log/a/b", "serve/x", "a\n/nar/x", "x" * 201 + "/nar/x"),
    ],
)
def test_nothing_else_is_taken(place: str) -> None:
    with pytest.raises(FormatError):
        PushUrl.parse(place)
