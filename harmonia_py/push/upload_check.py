"""The checks of a pushed NAR, held against its claims while it arrives. They compute: a thread draws their steps."""

from collections.abc import Iterable

from msgspec import Struct

from harmonia_py.cache.source import Pause
from harmonia_py.catalog.nars import NarFile
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.encoders import Encoder
from harmonia_py.contents.file_check import Sink
from harmonia_py.contents.nar_check import NarBounds, NarCheck, WrongNar
from harmonia_py.contents.nar_facts import NarFacts, NarReader
from harmonia_py.errors import FormatError, PushRefused
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.findings import Findings
from harmonia_py.push.steps import Steps


def blob_key_of(file: PushedFile) -> BlobKey:
    """The key of a file, one for all caches, as any binary cache has it."""
    return BlobKey(f"nar/{file}")


class CheckedUpload(Struct, frozen=True, kw_only=True):
    """A file all of whose bytes are here, and are those of its URL.

    Attributes:
        file: as the catalog has it.
        findings: of its NAR, as text.
        long_listing: of the NAR, when it is too long for the findings.
        metadata: that is kept beside the bytes.
    """

    file: NarFile
    findings: str
    long_listing: bytes | None
    metadata: dict[str, str]


class NarObserver:
    """Learns the facts of a NAR, and ends a computation whose client has left.

    Attributes:
        is_given_up: whether the client has.
        facts: of the NAR, once it has ended.
    """

    def __init__(self) -> None:
        self.is_given_up = False
        self.facts: NarFacts | None = None
        self._reader = NarReader()

    def update(self, data: bytes) -> None:
        """As in the port of `NarCheck`."""
        if self.is_given_up:
            raise FormatError("the client has left")
        self._reader.update(data)

    def finish(self) -> None:
        """As in the port of `NarCheck`."""
        self.facts = self._reader.finish()

    def upload(self, compression: str, check: NarCheck) -> CheckedUpload:
        """The upload, from the facts of its file, which `check` has computed, and those of its NAR."""
        checked, facts = check.checked, self.facts
        assert facts is not None
        findings = Findings.of(facts)
        return CheckedUpload(
            file=NarFile(
                file_hash=checked.file_hash,
                file_size=checked.file_size,
                compression=compression,
                blob_key=blob_key_of(PushedFile(checked.file_hash, compression)),
                nar_hash=checked.nar_hash,
                nar_size=checked.nar_size,
            ),
            findings=findings.format(),
            long_listing=b"".join(facts.listing.portions()) if findings.listing is None else None,
            metadata=check.metadata(),
        )


def _nowhere(_: bytes | memoryview) -> None:
    """The sink of a file that is kept elsewhere."""


class Upload:
    """The check of a NAR on its way. Its methods are called one at a time.

    Args:
        compression: of the file that is kept.
        check: checks the NAR, and shows it to `observer`.
        observer: learns the facts.
    """

    def __init__(self, compression: str, check: NarCheck, observer: NarObserver) -> None:
        self._compression = compression
        self._check = check
        self._observer = observer

    def take(self, portions: Iterable[bytes | memoryview | Pause], write: Sink) -> Steps[None]:
        """Check the next bytes, and write them, or what is made of them.

        Raises:
            FormatError, PushRefused: they are not what was announced, or no NAR.
        """
        for portion in portions:
            if isinstance(portion, Pause):
                yield portion
                continue
            try:
                yield from self._check.steps(portion, write)
            except FormatError as error:
                self._refuse(error)
                raise

    def finish(self, write: Sink = _nowhere) -> CheckedUpload:
        """Write the last bytes; returns the facts.

        Raises:
            FormatError, PushRefused: they are not what was announced, or no NAR.
        """
        try:
            write(self._check.finish())
        except FormatError as error:
            self._refuse(error)
            raise
        return self._observer.upload(self._compression, self._check)

    def take_all(self, portions: Iterable[bytes | memoryview | Pause]) -> Steps[CheckedUpload]:
        """Check all of a file that is kept elsewhere, as by `take` and `finish`, and raise what these raise."""
        yield from self.take(portions, _nowhere)
        return self.finish()

    def give_up(self) -> None:
        """Let the thread that computes stop soon."""
        self._observer.is_given_up = True

    def _refuse(self, error: FormatError) -> None:
        """Raise what the client is told, where that is more than the error says."""


class UploadCheck(Upload):
    """The check of a file that arrives.

    Args:
        file: the hash and compression that its URL names.
        file_size: the length that was announced.
        bounds: of its NAR.

    Attributes:
        file, file_size: as given.
    """

    def __init__(self, file: PushedFile, file_size: int, bounds: NarBounds) -> None:
        self.file = file
        self.file_size = file_size
        observer = NarObserver()
        check = NarCheck(None, file.compression, file.file_hash, file_size, observers=[observer], bounds=bounds)
        super().__init__(file.compression, check, observer)

    def _refuse(self, error: FormatError) -> None:
        raise FormatError(f"nar/{self.file}: {error}") from error


class NarUpload(Upload):
    """The check of a NAR that comes bare, against its client's claim, and its compression.

    Args:
        claim: NarHash, NarSize and perhaps a content address.
        encoder: makes the file.
        compression: of the file.
        bounds: of the NAR.

    Raises:
        FormatError: more is claimed than the bounds allow.
    """

    def __init__(self, claim: PathInfo, encoder: Encoder, compression: str, bounds: NarBounds) -> None:
        self._claim = claim
        observer = NarObserver()
        check = NarCheck(claim, "none", encoder=encoder, observers=[observer], bounds=bounds)
        super().__init__(compression, check, observer)

    def _refuse(self, error: FormatError) -> None:
        claimed = f"NarHash {self._claim.nar_hash} and NarSize {self._claim.nar_size} were announced"
        found = error.nar_hash if isinstance(error, WrongNar) else None
        actual = "" if found is None else f"; the hash of what was sent is {found}"
        raise PushRefused(f"{self._claim.store_path}: {error}: {claimed}{actual}") from error


class MadeUpload(Upload):
    """The check of a file that is made of chunks, by the recipe of a client.

    Args:
        nar_hash: of the NAR, as the client says.
        file_size: of the file that is made.
        bounds: of the NAR.
    """

    def __init__(self, nar_hash: Hash, file_size: int, bounds: NarBounds) -> None:
        self._nar_hash = nar_hash
        observer = NarObserver()
        check = NarCheck(None, "zstd", file_size=file_size, observers=[observer], bounds=bounds)
        super().__init__("zstd", check, observer)

    def finish(self, write: Sink = _nowhere) -> CheckedUpload:
        """As in `Upload`; it must be the NAR that the client says."""
        checked = super().finish(write)
        if checked.file.nar_hash != self._nar_hash:
            raise WrongNar("its NAR has another NarHash", checked.file.nar_hash)
        return checked
