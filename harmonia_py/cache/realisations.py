"""What upstreams say that outputs of content-addressed derivations were realised as, and what they said before."""

from collections.abc import Mapping

from harmonia_py.cache.asking import Nobody, Panel
from harmonia_py.cache.blobs import BlobKey
from harmonia_py.cache.kept import KeptFiles
from harmonia_py.cache.remembered import NarinfoMemory
from harmonia_py.cache.trust import parse_realisation
from harmonia_py.cache.upstream import Upstream, read_document
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.realisation import MAX_REALISATION_SIZE, DrvOutput, Realisation


class MirroredRealisations:
    """The realisations of upstreams.

    Args:
        panel: the upstreams.
        kept: where they are kept.
        memory: of what is absent.
    """

    def __init__(self, panel: Panel, kept: KeptFiles, memory: NarinfoMemory) -> None:
        self._panel = panel
        self._kept = kept
        self._memory = memory

    async def find(self, output: DrvOutput) -> tuple[Realisation, Mapping[str, str] | None] | None:
        """What an upstream says, or said when none can tell now; with what there is to `keep` of it.

        Raises:
            Nobody: no upstream can tell, there is no copy, and the client had better ask again.
        """
        key = _key(output)
        if self._memory.is_absent(key):
            return None
        try:
            answer = await self._panel.ask(lambda upstream: _question(upstream, output))
        except Nobody:
            kept = await self._kept.metadata(key)
            if kept is not None:
                found = self._parse(kept, output)
                return None if found is None else (found, None)
            if self._panel.unknown_is_not_found:
                return None
            raise
        if answer is None:
            self._memory.note_absent(key)
            return None
        realisation, data = answer.value
        return realisation, {"realisation": data.decode(), "upstream": answer.upstream.name}

    async def keep(self, output: DrvOutput, metadata: Mapping[str, str]) -> None:
        """Write it where a later process finds it."""
        await self._kept.note(_key(output), metadata)

    def _parse(self, metadata: Mapping[str, str], output: DrvOutput) -> Realisation | None:
        asked = self._panel.find(metadata.get("upstream", ""))
        if asked is None:
            return None
        return parse_realisation(metadata.get("realisation", "").encode(), output, asked.upstream.public_keys)


def _key(output: DrvOutput) -> BlobKey:
    return BlobKey(f"{Hash.of(str(output).encode()).nix32}.doi")


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
    return parse_realisation(data, output, upstream.public_keys), data
