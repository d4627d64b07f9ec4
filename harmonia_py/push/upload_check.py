"""The checks of a pushed NAR, held against its claims while it arrives. They compute: a thread draws their steps."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from harmonia_py.cache.source import Pause
from harmonia_py.catalog.nars import NarFile
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.encoders import Encoder
from harmonia_py.contents.file_check import Sink
from harmonia_py.contents.nar_check import CheckedNar, NarBounds, NarCheck, WrongNar
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


class UploadCheck:
    """The check of a file that arrives. Its methods are called one at a time.

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
        self._reader = _Reader()
        self._check = NarCheck(
            None, file.compression, file.file_hash, file_size, observers=[self._reader], bounds=bounds
        )

    def take(self, portions: Sequence[bytes], write: Sink) -> Steps[None]:
        """Check the next bytes and write them.

        Raises:
            FormatError: they are not those of the URL, or no NAR.
        """
        try:
            # Joined: a call of a codec or a hash may hand over to another thread, which costs more than a short copy.
            yield from self._check.steps(portions[0] if len(portions) == 1 else b"".join(portions), write)
        except FormatError as error:
            raise self._refusal(error) from error

    def finish(self) -> CheckedUpload:
        """The facts, once all bytes are here.

        Raises:
            FormatError: they are not those of the URL, or no NAR.
        """
        try:
            self._check.finish()
        except FormatError as error:
            raise self._refusal(error) from error
        assert self._reader.facts is not None
        return checked_upload(self.file, self._check.checked, self._reader.facts, self._check.metadata())

    def take_all(self, portions: Iterable[bytes | memoryview | Pause]) -> Steps[CheckedUpload]:
        """Check all of a file that is kept elsewhere, as by `take` and `finish`, and raise what these raise."""
        for portion in portions:
            if isinstance(portion, Pause):
                yield portion
            else:
                yield from self.take([bytes(portion)], lambda _: None)
        return self.finish()

    def give_up(self) -> None:
        """Let the thread that computes stop soon."""
        self._reader.is_given_up = True

    def _refusal(self, error: FormatError) -> FormatError:
        return FormatError(f"nar/{self.file}: {error}")


class NarUpload:
    """The check of a NAR that comes bare, against its client's claim, and its compression. One call at a time.

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
        self._compression = compression
        self._reader = _Reader()
        self._check = NarCheck(claim, "none", encoder=encoder, observers=[self._reader], bounds=bounds)

    def take(self, portions: Sequence[bytes], write: Sink) -> Steps[None]:
        """Check the next bytes, compress them and write the result.

        Raises:
            PushRefused: they are not what was claimed, or no NAR.
        """
        try:
            yield from self._check.steps(portions[0] if len(portions) == 1 else b"".join(portions), write)
        except FormatError as error:
            raise self._refusal(error) from error

    def finish(self, write: Sink) -> CheckedUpload:
        """Write the last bytes; returns the facts.

        Raises:
            PushRefused: they are not what was claimed, or no NAR.
        """
        try:
            write(self._check.finish())
        except FormatError as error:
            raise self._refusal(error) from error
        checked, facts = self._check.checked, self._reader.facts
        assert facts is not None
        return checked_upload(PushedFile(checked.file_hash, self._compression), checked, facts, self._check.metadata())

    def give_up(self) -> None:
        """Let the thread that computes stop soon."""
        self._reader.is_given_up = True

    def _refusal(self, error: FormatError) -> PushRefused:
        claimed = f"NarHash {self._claim.nar_hash} and NarSize {self._claim.nar_size} were announced"
        found = error.nar_hash if isinstance(error, WrongNar) else None
        actual = "" if found is None else f"; the hash of what was sent is {found}"
        return PushRefused(f"{self._claim.store_path}: {error}: {claimed}{actual}")


class MadeUpload:
    """The check of a file that is made of chunks, by the recipe of a client. One call at a time.

    Args:
        nar_hash: of the NAR, as the client says.
        file_size: of the file that is made.
        bounds: of the NAR.
    """

    def __init__(self, nar_hash: Hash, file_size: int, bounds: NarBounds) -> None:
        self._nar_hash = nar_hash
        self._reader = _Reader()
        self._check = NarCheck(None, "zstd", file_size=file_size, observers=[self._reader], bounds=bounds)

    def take(self, portions: Iterable[bytes | memoryview | Pause], write: Sink) -> Steps[None]:
        """Check the next bytes and write them.

        Raises:
            FormatError: they are no NAR.
        """
        for portion in portions:
            if isinstance(portion, Pause):
                yield portion
            else:
                yield from self._check.steps(portion, write)

    def finish(self) -> CheckedUpload:
        """The facts, once all bytes are here.

        Raises:
            FormatError: they are another NAR, or none.
        """
        self._check.finish()
        checked, facts = self._check.checked, self._reader.facts
        assert facts is not None
        if checked.nar_hash != self._nar_hash:
            raise WrongNar("its NAR has another NarHash", checked.nar_hash)
        return checked_upload(PushedFile(checked.file_hash, "zstd"), checked, facts, self._check.metadata())

    def give_up(self) -> None:
        """Let the thread that computes stop soon."""
        self._reader.is_given_up = True


def checked_upload(file: PushedFile, checked: CheckedNar, facts: NarFacts, metadata: dict[str, str]) -> CheckedUpload:
    """The upload, from the facts of its file and of its NAR."""
    findings = Findings.of(facts)
    return CheckedUpload(
        file=NarFile(
            file_hash=file.file_hash,
            file_size=checked.file_size,
            compression=file.compression,
            blob_key=blob_key_of(file),
            nar_hash=checked.nar_hash,
            nar_size=checked.nar_size,
        ),
        findings=findings.format(),
        long_listing=b"".join(facts.listing.portions()) if findings.listing is None else None,
        metadata=metadata,
    )


class _Reader:
    """Learns the facts; ends a computation whose client has left."""

    def __init__(self) -> None:
        self.is_given_up = False
        self.facts: NarFacts | None = None
        self._reader = NarReader()

    def update(self, data: bytes) -> None:
        if self.is_given_up:
            raise FormatError("the client has left")
        self._reader.update(data)

    def finish(self) -> None:
        self.facts = self._reader.finish()
