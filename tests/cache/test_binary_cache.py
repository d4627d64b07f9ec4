"""The cache asks its sources in their order, signs what they have, and never takes "cannot tell" for "not here"."""

from dataclasses import dataclass, field, replace

import pytest

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.origin import SourcedNarInfo
from harmonia_py.cache.source import Download
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

    async def narinfo(self, hash_part: HashPart) -> NarInfo | None:
        self._note(hash_part)
        return self.narinfo_answer

    async def nar(self, url: NarUrl) -> Download | None:
        self._note(url)
        return self._download()

    async def listing(self, hash_part: HashPart) -> Download | None:
        self._note(hash_part)
        return self._download()

    async def log(self, derivation: StorePath | HashPart) -> Download | None:
        self._note(derivation)
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
    assert await cache.narinfo(PATH.hash_part) == NARINFO
    for download in (await cache.nar(URL), await cache.listing(PATH.hash_part), await cache.log(PATH)):
        assert download is not None
        assert download.etag == "second"
    assert sources[0].asked == sources[1].asked == [PATH.hash_part, URL, PATH.hash_part, PATH]
    assert sources[2].asked == []


async def test_what_no_source_has_is_none() -> None:
    for cache in (cache_of(), cache_of(OneAnswer(), OneAnswer())):
        assert await cache.narinfo(PATH.hash_part) is None
        assert await cache.nar(URL) is None
        assert await cache.listing(PATH.hash_part) is None
        assert await cache.log(PATH) is None
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
    narinfo = await cache.narinfo(PATH.hash_part)
    assert narinfo is not None
    signatures = narinfo.path_info.signatures
    assert [signature.key_name for signature in signatures] == ["a-1", "m-1", "z-1"]
    for key in cache.public_keys:
        assert any(key.verify(message, signature) for signature in signatures)
    assert replace(narinfo, path_info=replace(narinfo.path_info, signatures=())) == NARINFO


async def test_a_signature_that_is_there_already_is_not_there_twice() -> None:
    key = SecretKey.generate("a-1")
    message = NARINFO.path_info.fingerprint(STORE_DIR)
    has = replace(NARINFO, path_info=replace(NARINFO.path_info, signatures=(key.sign(message),)))
    narinfo = await cache_of(OneAnswer(narinfo_answer=has), keys=(key,)).narinfo(PATH.hash_part)
    assert narinfo == has


async def test_without_a_key_nothing_is_added() -> None:
    cache = cache_of(OneAnswer(narinfo_answer=NARINFO))
    assert await cache.narinfo(PATH.hash_part) == NARINFO
    assert cache.public_keys == ()


@pytest.mark.parametrize("mirrored", [False, True])
async def test_what_only_contents_prove_is_signed_when_it_is_in_the_store_and_not_when_an_upstream_says_it(
    *, mirrored: bool
) -> None:
    ca = ContentAddress(Method.TEXT, Hash.of(b"contents"))
    info = PathInfo(store_path=ca.store_path("text", [], STORE_DIR), nar_hash=Hash.of(b"nar"), nar_size=3, ca=ca)
    narinfo = NarInfo(path_info=info, url="nar/x.nar", compression="none")
    if mirrored:
        narinfo = SourcedNarInfo(path_info=info, url="nar/x.nar", compression="none", origin="upstream up")
    key = SecretKey.generate("a-1")
    answer = await cache_of(OneAnswer(narinfo_answer=narinfo), keys=(key,)).narinfo(info.store_path.hash_part)
    assert answer is not None
    assert bool(answer.path_info.signatures) != mirrored


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
