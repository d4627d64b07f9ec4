"""Hypothesis strategies for the values of `harmonia_py.nix`."""

from typing import Final

from hypothesis import strategies as st

from harmonia_py.nix import base32
from harmonia_py.nix.content_address import ContentAddress, Method, UnknownContentAddress
from harmonia_py.nix.hashes import DIGEST_SIZES, Hash
from harmonia_py.nix.narinfo import SUFFIXES, NarInfo, NarUrl
from harmonia_py.nix.path_info import MAX_NAR_SIZE, PathInfo, sorted_references
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import Signature
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

NAME_CHARACTERS: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._?="

hash_parts = st.text(base32.ALPHABET, min_size=32, max_size=32).map(HashPart.parse)
# A dot at the beginning has rules of its own, which test_store_path.py tests.
names = st.from_regex(r"[0-9A-Za-z+\-_?=][0-9A-Za-z+\-._?=]{0,40}", fullmatch=True)
store_paths = st.builds(lambda hash_part, name: StorePath.parse(f"{hash_part}-{name}"), hash_parts, names)
derivations = st.builds(lambda path: StorePath.parse(f"{path}.drv"), store_paths)
store_dirs = st.lists(
    st.from_regex(r"[a-z0-9é_][a-z0-9é._+ ]{0,9}[a-z0-9é_]", fullmatch=True), min_size=1, max_size=4
).map(lambda components: StoreDir.parse("/" + "/".join(components)))


def hashes(*algorithms: str) -> st.SearchStrategy[Hash]:
    """Hashes of those algorithms, or of all."""
    return st.sampled_from(algorithms or sorted(DIGEST_SIZES)).flatmap(
        lambda algorithm: st.binary(min_size=DIGEST_SIZES[algorithm], max_size=DIGEST_SIZES[algorithm]).map(
            lambda digest: Hash(algorithm, digest)
        )
    )


content_addresses = st.one_of(
    st.builds(ContentAddress, st.sampled_from([Method.FLAT, Method.NAR, Method.GIT]), hashes()),
    st.builds(ContentAddress, st.just(Method.TEXT), hashes("sha256")),
)
unknown_content_addresses = st.from_regex(
    r"(fixed|fixed:r|fixed:tree|text|blob):blake3:[0-9A-Za-z+/=]{1,60}", fullmatch=True
).map(UnknownContentAddress.parse)
key_names = st.from_regex(r"[0-9A-Za-zé.\-_/+=!]{1,20}", fullmatch=True)
signatures = st.builds(Signature, key_names, st.binary(min_size=64, max_size=64))
signature_tuples = st.lists(signatures, max_size=3, unique=True).map(lambda items: tuple(sorted(items)))
sizes = st.integers(min_value=1, max_value=MAX_NAR_SIZE)
# What a narinfo does not carry keeps its default.
path_infos = st.builds(
    PathInfo,
    store_path=store_paths,
    nar_hash=hashes("sha256"),
    nar_size=sizes,
    references=st.lists(store_paths, max_size=4).map(sorted_references),
    deriver=st.none() | derivations,
    signatures=signature_tuples,
    ca=st.none() | content_addresses | unknown_content_addresses,
)
nar_urls = st.one_of(
    st.builds(NarUrl, hash_parts, hashes("sha256"), st.sampled_from(sorted(SUFFIXES))),
    st.builds(NarUrl, hash_parts, st.none(), st.sampled_from(sorted(SUFFIXES))),
)
narinfos = st.builds(
    NarInfo,
    path_info=path_infos,
    url=nar_urls.map(str),
    compression=st.sampled_from(sorted(SUFFIXES)),
    file_hash=st.none() | hashes("sha256"),
    file_size=st.none() | sizes,
)
old_outputs = st.builds(DrvOutput, hashes("sha256"), names)
new_outputs = st.builds(DrvOutput.of, derivations, names)
old_realisations = st.builds(
    Realisation,
    id=old_outputs,
    out_path=store_paths,
    signatures=signature_tuples,
    dependent_realisations=st.dictionaries(old_outputs, store_paths, max_size=3).map(
        lambda items: tuple(sorted(items.items(), key=lambda item: str(item[0])))
    ),
)
new_realisations = st.builds(Realisation, id=new_outputs, out_path=store_paths, signatures=signature_tuples)
