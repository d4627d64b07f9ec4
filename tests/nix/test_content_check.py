"""A NAR held against its content address: what real Nix made passes, and nothing else."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from msgspec.structs import replace
from strategies import path_infos
from trees import File, Folder, Link, nar

from harmonia_py.errors import FormatError
from harmonia_py.nix.content_address import ContentAddress, Method, UnknownContentAddress
from harmonia_py.nix.content_check import content_check
from harmonia_py.nix.hashes import DIGEST_SIZES, Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StorePath

PATH = StorePath.parse("26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1")


def check(info: PathInfo, data: bytes, cuts: Sequence[int] = ()) -> None:
    contents = content_check(info)
    assert contents is not None
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        contents.update(data[start:stop])
    contents.finish()


def digest(algorithm: str, data: bytes) -> Hash:
    return Hash(algorithm, hashlib.new(algorithm, data, usedforsecurity=False).digest())


def info_of(ca: ContentAddress | UnknownContentAddress | None, *references: StorePath) -> PathInfo:
    return PathInfo(store_path=PATH, nar_hash=Hash.of(b"another"), nar_size=1, ca=ca, references=references)


@dataclass(frozen=True)
class Made:
    """A path that Nix made."""

    info: PathInfo
    nar: bytes


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("nix")) as lab:
        yield lab


def _add(*options: str) -> Callable[[Lab], str]:
    def add(nix: Lab) -> str:
        file = nix.root / "file-1.0"
        file.write_bytes(b"hello" * 1000)
        return nix.nix_store("--add-fixed", *options, str(file)).strip()

    return add


def _add_tree(*options: str) -> Callable[[Lab], str]:
    def add(nix: Lab) -> str:
        tree = nix.root / "tree"
        tree.mkdir(exist_ok=True)
        (tree / "file").write_bytes(b"x" * 100_000)
        return nix.nix_store("--add-fixed", "--recursive", *options, str(tree)).strip()

    return add


def _text(nix: Lab) -> str:
    expression = 'builtins.toFile "b" "see ${builtins.toFile "a" "hello"}"'
    written: str = json.loads(nix.nix("eval", "--impure", "--json", "--expr", expression))
    return written


def _fetched(nix: Lab) -> str:
    expression = nix.root / "fetched.nix"
    sha512 = hashlib.sha512(b"fetched\n").hexdigest()
    expression.write_text(
        'derivation { name = "fetched"; system = builtins.currentSystem; builder = "/bin/sh";'
        ' args = [ "-c" "echo fetched > $out" ];'
        f' outputHashMode = "flat"; outputHashAlgo = "sha512"; outputHash = "{sha512}"; }}'
    )
    return nix.run("nix-build", "--no-out-link", str(expression)).stdout.decode().strip()


KINDS: dict[str, Callable[[Lab], str]] = {
    "text:sha256": _text,
    "text:sha256, derivation": lambda nix: nix.full(nix.build_ca().dep_derivation),
    "fixed:md5": _add("md5"),
    "fixed:sha1": _add("sha1"),
    "fixed:sha256": _add("sha256"),
    "fixed:sha512": _fetched,
    "fixed:r:md5": _add_tree("md5"),
    "fixed:r:sha1": _add_tree("sha1"),
    "fixed:r:sha256, to itself": lambda nix: nix.full(nix.build_ca().top),
    "fixed:r:sha512": _add_tree("sha512"),
}


@pytest.fixture(params=sorted(KINDS))
def made(request: pytest.FixtureRequest, nix: Lab) -> Made:
    full = KINDS[request.param](nix)
    path = nix.store_dir.parse_path(full)
    (told,) = nix.path_infos(*["--derivation"] * path.is_derivation, full).values()
    ca = ContentAddress.parse(told["ca"])
    assert f"{ca.method.value}{ca.hash.algorithm}" == request.param.partition(",")[0]
    references = tuple(sorted(nix.store_dir.parse_path(one) for one in told["references"]))
    assert (path in references) == request.param.endswith("to itself")
    data = nix.dump(path)
    nar_hash = Hash.parse(told["narHash"])
    return Made(PathInfo(store_path=path, nar_hash=nar_hash, nar_size=len(data), ca=ca, references=references), data)


def test_every_kind_that_nix_makes_passes_in_any_chunks(made: Made) -> None:
    check(made.info, made.nar)
    check(made.info, made.nar, range(0, len(made.nar), 7))
    check(made.info, made.nar, range(0, len(made.nar), 4096))


def test_of_every_kind_no_other_contents_pass(made: Made) -> None:
    for place in range(0, len(made.nar), max(1, len(made.nar) // 50)):
        other = made.nar[:place] + bytes([made.nar[place] ^ 1]) + made.nar[place + 1 :]
        with pytest.raises(FormatError):
            check(made.info, other)
    for other in (b"", made.nar[:-1], made.nar + bytes(8)):
        with pytest.raises(FormatError):
            check(made.info, other)


def test_the_hash_of_a_whole_nar_needs_no_second_look_where_it_is_the_nar_hash(nix: Lab) -> None:
    path = nix.store_dir.parse_path(_add_tree("sha256")(nix))
    (told,) = nix.path_infos(nix.full(path)).values()
    info = info_of(ContentAddress.parse(told["ca"]))
    assert content_check(replace(info, store_path=path, nar_hash=Hash.of(nix.dump(path)))) is None
    check(replace(info, store_path=path), nix.dump(path))


@pytest.mark.parametrize("tree", [File(b"hello", executable=True), Folder({b"a": File(b"hello")}), Link(b"hello")])
@pytest.mark.parametrize("method", [Method.FLAT, Method.TEXT])
def test_what_is_hashed_as_a_file_is_a_plain_one(method: Method, tree: File | Folder | Link) -> None:
    info = info_of(ContentAddress(method, Hash.of(b"hello")))
    check(info, nar(File(b"hello")))
    with pytest.raises(FormatError, match="it is not one"):
        check(info, nar(tree))


@pytest.mark.parametrize(
    "ca", [None, UnknownContentAddress("fixed:r:blake3:0"), ContentAddress(Method.GIT, digest("sha1", b""))]
)
def test_what_cannot_be_checked_has_no_check(ca: ContentAddress | UnknownContentAddress | None) -> None:
    assert content_check(info_of(ca)) is None


def test_a_path_that_does_not_say_that_it_refers_to_itself_has_the_hash_of_all_its_bytes() -> None:
    data = nar(File(PATH.encode()))
    ca = ContentAddress(Method.NAR, Hash.of(data.replace(PATH.hash_part.encode(), bytes(32))))
    check(info_of(ca, PATH), data)
    with pytest.raises(FormatError):
        check(info_of(ca), data)


@given(path_infos, st.binary(max_size=300), st.booleans())
def test_any_bytes_pass_or_are_refused(info: PathInfo, data: bytes, to_itself: bool) -> None:  # noqa: FBT001
    contents = content_check(replace(info, references=(info.store_path,)) if to_itself else info)
    if contents is None:
        return
    try:
        contents.update(data)
    except FormatError:
        return
    with pytest.raises(FormatError):
        contents.finish()


@pytest.mark.parametrize("algorithm", sorted(DIGEST_SIZES))
@given(data=st.binary(max_size=300), cut=st.integers(0, 500))
def test_every_algorithm_is_known_for_files_and_for_archives(algorithm: str, data: bytes, cut: int) -> None:
    archive = nar(File(data))
    cuts = [min(cut, len(archive))]
    check(info_of(ContentAddress(Method.FLAT, digest(algorithm, data))), archive, cuts)
    check(info_of(ContentAddress(Method.NAR, digest(algorithm, archive))), archive, cuts)
