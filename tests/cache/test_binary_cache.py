"""The cache asks its sources in their order, signs what they have, and never takes "cannot tell" for "not here"."""

from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.found import KEPT, LOCAL, STALE, Found, Origin, from_upstream
from harmonia_py.cache.policy import BuiltHere, Policy
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download
from harmonia_py.cache.validity import ALWAYS, Validity
from harmonia_py.errors import DaemonUnreachable
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

PATH = StorePath.parse("26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1")
OUTPUT = DrvOutput.parse("sha256:" + "ab" * 32 + "!out")
URL = NarUrl.parse(f"{PATH.hash_part}.nar")
STORE_DIR = StoreDir.parse("/nix/store")
NARINFO = NarInfo(
    path_info=PathInfo(store_path=PATH, nar_hash=Hash.of(b"nar"), nar_size=3, references=(PATH,)),
    url=str(URL),
    compression="none",
)


@dataclass
class OneAnswer:
    """A source that says the same of everything: an answer, None, or that it cannot tell."""

    narinfo_answer: NarInfo | None = None
    origin: Origin = LOCAL
    validity: Validity | None = None
    realisation_answer: Realisation | None = None
    text: str | None = None
    error: Exception | None = None
    asked: list[object] = field(default_factory=list)

    def _note(self, what: object) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    def _download(self) -> Download | None:
        return None if self.text is None else Download.of_bytes(self.text.encode(), self.text)

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        self._note(hash_part)
        return None if self.narinfo_answer is None else Found(self.narinfo_answer, self.origin, self.validity)

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:  # noqa: ARG002  # the port's signature
        self._note(url)
        return self._download()

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        self._note((kind, name))
        return self._download()

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        self._note(output)
        return self.realisation_answer


def cache_of(*sources: OneAnswer, keys: tuple[SecretKey, ...] = ()) -> BinaryCache:
    info = CacheInfo(STORE_DIR, want_mass_query=True, priority=30)
    return BinaryCache(cache_info=info, sources=sources, secret_keys=keys)


async def test_the_first_source_that_has_it_answers_and_later_ones_are_not_asked() -> None:
    sources = [OneAnswer(), OneAnswer(narinfo_answer=NARINFO, text="second"), OneAnswer(text="third")]
    cache = cache_of(*sources)
    assert await cache.narinfo(PATH.hash_part) == Found(NARINFO, LOCAL, None)
    listing, log = (DocumentKind.LISTING, PATH.hash_part), (DocumentKind.LOG, PATH)
    for download in (await cache.nar(URL), await cache.document(*listing), await cache.document(*log)):
        assert download is not None
        assert download.etag == "second"
    assert sources[0].asked == sources[1].asked == [PATH.hash_part, URL, listing, log]
    assert sources[2].asked == []


async def test_what_no_source_has_is_none() -> None:
    for cache in (cache_of(), cache_of(OneAnswer(), OneAnswer())):
        assert await cache.narinfo(PATH.hash_part) is None
        assert await cache.nar(URL) is None
        assert await cache.document(DocumentKind.LISTING, PATH.hash_part) is None
        assert await cache.document(DocumentKind.LOG, PATH) is None
        assert await cache.realisation(OUTPUT) is None


async def test_a_source_that_cannot_tell_is_not_passed_over() -> None:
    """A client would remember for an hour that the path is absent, although the daemon merely restarts."""
    cache = cache_of(OneAnswer(error=DaemonUnreachable("down")), OneAnswer())
    with pytest.raises(DaemonUnreachable):
        await cache.narinfo(PATH.hash_part)


async def test_what_one_source_cannot_tell_another_may_have() -> None:
    """While the daemon restarts, and where files of the store are damaged, a mirror may have what is wanted."""
    cache = cache_of(OneAnswer(error=DaemonUnreachable("down")), OneAnswer(narinfo_answer=NARINFO))
    assert await cache.narinfo(PATH.hash_part) is not None


async def test_a_narinfo_gets_a_signature_of_each_key_beside_those_it_has() -> None:
    keys = tuple(SecretKey.generate(name) for name in ("z-1", "a-1"))
    other = SecretKey.generate("m-1")
    message = NARINFO.path_info.fingerprint(STORE_DIR)
    has = replace(NARINFO, path_info=replace(NARINFO.path_info, signatures=(other.sign(message),)))
    cache = cache_of(OneAnswer(narinfo_answer=has), keys=keys)
    found = await cache.narinfo(PATH.hash_part)
    assert found is not None
    narinfo = found.narinfo
    signatures = narinfo.path_info.signatures
    assert [signature.key_name for signature in signatures] == ["a-1", "m-1", "z-1"]
    for key in cache.public_keys:
        assert any(key.verify(message, signature) for signature in signatures)
    assert replace(narinfo, path_info=replace(narinfo.path_info, signatures=())) == NARINFO


async def test_a_signature_that_is_there_already_is_not_there_twice() -> None:
    key = SecretKey.generate("a-1")
    message = NARINFO.path_info.fingerprint(STORE_DIR)
    has = replace(NARINFO, path_info=replace(NARINFO.path_info, signatures=(key.sign(message),)))
    found = await cache_of(OneAnswer(narinfo_answer=has), keys=(key,)).narinfo(PATH.hash_part)
    assert found == Found(has, LOCAL, None)


async def test_without_a_key_nothing_is_added() -> None:
    cache = cache_of(OneAnswer(narinfo_answer=NARINFO))
    assert await cache.narinfo(PATH.hash_part) == Found(NARINFO, LOCAL, None)
    assert cache.public_keys == ()


@pytest.mark.parametrize(
    ("origin", "signed"), [(LOCAL, True), (KEPT, False), (STALE, False), (from_upstream("up"), False)]
)
async def test_what_only_contents_prove_is_signed_when_it_is_in_the_store_and_not_when_an_upstream_says_it(
    origin: Origin, *, signed: bool
) -> None:
    ca = ContentAddress(Method.TEXT, Hash.of(b"contents"))
    info = PathInfo(store_path=ca.store_path("text", [], STORE_DIR), nar_hash=Hash.of(b"nar"), nar_size=3, ca=ca)
    narinfo = NarInfo(path_info=info, url="nar/x.nar", compression="none")
    key = SecretKey.generate("a-1")
    source = OneAnswer(narinfo_answer=narinfo, origin=origin)
    found = await cache_of(source, keys=(key,)).narinfo(info.store_path.hash_part)
    assert found is not None
    assert bool(found.narinfo.path_info.signatures) == signed


@pytest.mark.parametrize("origin", [LOCAL, KEPT, STALE, from_upstream("up")])
async def test_what_a_signature_vouches_for_is_signed_wherever_it_comes_from(origin: Origin) -> None:
    key = SecretKey.generate("a-1")
    source = OneAnswer(narinfo_answer=NARINFO, origin=origin)
    found = await cache_of(source, keys=(key,)).narinfo(PATH.hash_part)
    assert found is not None
    assert found.origin is origin
    assert [signature.key_name for signature in found.narinfo.path_info.signatures] == ["a-1"]


class OnlySometimes:
    """A policy that allows everything, and may say something else at any time."""

    validity = None

    async def allows(self, _info: PathInfo) -> bool:
        return True

    async def allowed_names(self) -> None:
        return None


@pytest.mark.parametrize(
    ("source", "policy", "expected"),
    [
        (ALWAYS, None, ALWAYS),
        (None, None, None),
        (ALWAYS, BuiltHere(), ALWAYS),
        (ALWAYS, OnlySometimes(), None),
    ],
)
async def test_an_answer_is_right_for_as_long_as_the_source_and_the_policy_say(
    source: Validity | None, policy: Policy | None, expected: Validity | None
) -> None:
    narinfo = replace(NARINFO, path_info=replace(NARINFO.path_info, ultimate=True))
    cache = BinaryCache(
        cache_info=CacheInfo(STORE_DIR, want_mass_query=True, priority=30),
        sources=[OneAnswer(narinfo_answer=narinfo, validity=source)],
        secret_keys=(),
        policy=policy,
    )
    found = await cache.narinfo(PATH.hash_part)
    assert found is not None
    assert found.validity == expected


async def test_what_the_policy_denies_of_one_source_another_may_have_as_it_is_allowed() -> None:
    """404 for what an upstream has was a sign that the path is in this store as well, in a form that is denied."""
    allowed = replace(NARINFO, path_info=replace(NARINFO.path_info, ultimate=True))
    sources = [OneAnswer(narinfo_answer=NARINFO), OneAnswer(narinfo_answer=allowed)]
    info = CacheInfo(STORE_DIR, want_mass_query=True, priority=30)
    cache = BinaryCache(cache_info=info, sources=sources, secret_keys=(), policy=BuiltHere())
    found = await cache.narinfo(PATH.hash_part)
    assert found is not None
    assert found.narinfo == allowed


async def test_a_realisation_is_signed_as_well() -> None:
    key = SecretKey.generate("a-1")
    realisation = Realisation(id=OUTPUT, out_path=PATH)
    signed = await cache_of(OneAnswer(realisation_answer=realisation), keys=(key,)).realisation(OUTPUT)
    assert signed is not None
    (signature,) = signed.signatures
    assert key.public_key.verify(realisation.fingerprint(), signature)


async def test_a_realisation_that_depends_on_others_is_signed_with_them_and_without() -> None:
    """Nix 2.34 drops what a realisation depends on before it verifies, so our signature was no good there."""
    key = SecretKey.generate("cache-1")
    bare = Realisation(id=OUTPUT, out_path=PATH)
    whole = replace(bare, dependent_realisations=((DrvOutput(OUTPUT.derivation, "lib"), PATH),))
    signed = await cache_of(OneAnswer(realisation_answer=whole), keys=(key,)).realisation(OUTPUT)
    assert signed is not None
    assert signed.dependent_realisations == whole.dependent_realisations
    assert len(signed.signatures) == 2
    for form in (bare, whole):
        assert sum(key.public_key.verify(form.fingerprint(), one) for one in signed.signatures) == 1


async def test_a_path_that_is_gone_is_gone_for_the_next_who_asks() -> None:
    source = OneAnswer(narinfo_answer=NARINFO)
    cache = cache_of(source)
    assert await cache.narinfo(PATH.hash_part) is not None
    source.narinfo_answer = None
    assert await cache.narinfo(PATH.hash_part) is None
