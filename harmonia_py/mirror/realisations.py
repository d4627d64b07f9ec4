"""Realisations of outputs of content-addressed derivations that upstreams have, asked for now or remembered."""

import asyncio

from harmonia_py.catalog.kept_mirrored import KeptMirrored
from harmonia_py.catalog.mirrored import UpstreamRealisation
from harmonia_py.errors import Overloaded
from harmonia_py.mirror.narinfo_index import NarinfoIndex
from harmonia_py.mirror.outcome import NoUpstreamAnswered
from harmonia_py.mirror.trusted import parse_realisation
from harmonia_py.mirror.upstream import Upstream, read_document
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.realisation import MAX_REALISATION_SIZE, DrvOutput, Realisation


class MirroredRealisations:
    """The realisations of upstreams.

    Args:
        upstreams: the upstreams.
        kept_mirrored: remembers realisations.
        index: remembers what is absent.
    """

    def __init__(self, upstreams: Upstreams, kept_mirrored: KeptMirrored, index: NarinfoIndex) -> None:
        self._upstreams = upstreams
        self._kept_mirrored = kept_mirrored
        self._index = index

    async def find(self, output: DrvOutput) -> tuple[Realisation, UpstreamRealisation | None] | None:
        """The realisation of an upstream, with its text to be kept if new, or the remembered one when none can tell.

        Raises:
            NoUpstreamAnswered: no upstream can tell, there is no copy, and the client had better ask again.
            Overloaded: not every upstream was asked, and there is no copy.
        """
        key = _key(output)
        if self._index.is_absent(key):
            return None
        try:
            answer = await self._upstreams.ask(lambda upstream: _question(upstream, output), is_of_file=True)
        except (NoUpstreamAnswered, Overloaded) as error:
            kept = await self._kept_mirrored.realisation(key)
            if kept is not None:
                found = self._parse(kept, output)
                return None if found is None else (found, None)
            if isinstance(error, NoUpstreamAnswered) and self._upstreams.unknown_is_not_found:
                return None
            raise
        if answer is None:
            self._index.note_absent(key)
            return None
        realisation, data = answer.value
        return realisation, UpstreamRealisation(output=key, text=data, upstream=answer.upstream.name)

    def _parse(self, told: UpstreamRealisation, output: DrvOutput) -> Realisation | None:
        state = self._upstreams.find(told.upstream)
        return None if state is None else parse_realisation(told.text, output, state.upstream.public_keys)


def _key(output: DrvOutput) -> str:
    return Hash.of(str(output).encode()).nix32


async def _question(upstream: Upstream, output: DrvOutput) -> tuple[Realisation, bytes] | None:
    if isinstance(output.derivation, Hash):
        url = f"realisations/{output}.doi"
    else:
        url = f"build-trace-v2/{output.derivation}/{output.output_name}.doi"
    body = await upstream.open(url)
    if body is None:
        return None
    with body:
        data = await read_document(body, MAX_REALISATION_SIZE)
    return await asyncio.to_thread(parse_realisation, data, output, upstream.public_keys), data
