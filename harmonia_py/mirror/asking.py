"""Questions to upstreams for narinfos: asked once for all callers, answers parsed, verified and remembered."""

import time
from collections.abc import Callable, Collection

from msgspec import Struct, field

from harmonia_py.contents.encoders import MADE_HERE
from harmonia_py.mirror.indexed_narinfo import IndexedNarInfo
from harmonia_py.mirror.mirror_metrics import MirrorCounters
from harmonia_py.mirror.narinfo_index import NarinfoIndex
from harmonia_py.mirror.trusted import MAX_NARINFO_BYTES, read_narinfo
from harmonia_py.mirror.upstream import Upstream, read_document
from harmonia_py.mirror.upstreams import Answer, Upstreams
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.runtime.tasks import SingleFlight
from harmonia_py.runtime.threads import Pool, Threads


class _Reply(Struct, frozen=True):
    narinfo: NarInfo
    max_age: float | None


class NarinfoQuestions(Struct, eq=False):
    """Asks for narinfos.

    Attributes:
        upstreams: are asked.
        index: remembers what they say.
        store_dir: narinfos of another one are refused.
        counters: what is counted.
        ttl: seconds that a narinfo is believed whose upstream sets no `max-age`.
        renew: called with a narinfo that an upstream has given of a path whose NAR is kept.
    """

    upstreams: Upstreams
    index: NarinfoIndex
    store_dir: StoreDir
    counters: MirrorCounters
    ttl: float
    renew: Callable[[IndexedNarInfo], object]
    _parsing: Threads = field(default_factory=lambda: Threads(Pool.NARINFO))
    _asking: SingleFlight[HashPart, IndexedNarInfo | None] = field(default_factory=SingleFlight)

    async def aclose(self) -> None:
        """Give up all questions."""
        await self._asking.aclose()
        self._parsing.give_up()

    async def ask(self, hash_part: HashPart) -> IndexedNarInfo | None:
        """A narinfo of an upstream, asked for now; None when none has the path. Callers meanwhile share the answer.

        Raises:
            NoUpstreamAnswered: an upstream that could have it cannot tell.
            Overloaded: an upstream that could have it was not asked.
        """
        return await self._asking.do(hash_part, lambda: self._ask(hash_part))

    async def ask_for(self, url: NarUrl) -> IndexedNarInfo | None:
        """The narinfo of an upstream that has the NAR of `url`; it is not remembered. Raises as `ask`."""

        async def question(upstream: Upstream) -> _Reply | None:
            reply = await self._question(upstream, url.hash_part)
            return reply if reply is not None and offers(reply.narinfo, url) else None

        self.counters.narinfos_asked.add()
        answer = await self.upstreams.ask(question)
        return None if answer is None else await self._entry(answer)

    async def ask_those(self, hash_part: HashPart, names: Collection[str]) -> IndexedNarInfo | None:
        """A narinfo of one of the upstreams of these names; it is not remembered. Raises as `ask`."""
        answer = await self.upstreams.ask(lambda upstream: self._question(upstream, hash_part), names=names)
        return None if answer is None else await self._entry(answer)

    async def ask_upstream(self, upstream: Upstream, hash_part: HashPart) -> NarInfo | None:
        """The narinfo of this upstream; None when it does not have the path.

        Raises:
            UpstreamError: it cannot tell, or is not believed.
        """
        reply = await self._question(upstream, hash_part)
        return None if reply is None else reply.narinfo

    async def _ask(self, hash_part: HashPart) -> IndexedNarInfo | None:
        self.counters.narinfos_asked.add()
        answer = await self.upstreams.ask(lambda upstream: self._question(upstream, hash_part))
        if answer is None:
            return None
        entry = await self._entry(answer)
        self.index.remember(entry)
        if entry.facts is not None:
            self.renew(entry)
        return entry

    async def _entry(self, answer: Answer[_Reply]) -> IndexedNarInfo:
        reply = answer.value
        max_age = self.ttl if reply.max_age is None else reply.max_age
        entry = IndexedNarInfo(reply.narinfo, answer.upstream.name, time.time(), max_age, reply.narinfo.compression)
        await self.index.look(entry, lately=True)
        return entry

    async def _question(self, upstream: Upstream, hash_part: HashPart) -> _Reply | None:
        body = await upstream.open(f"{hash_part}.narinfo")
        if body is None:
            return None
        with body:
            data = await read_document(body, MAX_NARINFO_BYTES)
        narinfo = await read_narinfo(self._parsing, data, hash_part, upstream.public_keys, self.store_dir)
        return _Reply(narinfo, body.max_age)


def offers(narinfo: NarInfo, url: NarUrl) -> bool:
    """Whether the file of `url` is the one in a narinfo, or can be made of it."""
    can_become = url.compression == narinfo.compression or url.compression in MADE_HERE
    return narinfo.path_info.nar_hash == url.nar_hash and can_become
