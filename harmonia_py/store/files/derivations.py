"""Derivations in the files of a store."""

import asyncio
import os
from pathlib import Path
from typing import Final

from harmonia_py.errors import FormatError
from harmonia_py.nix.derivation import parse_outputs
from harmonia_py.nix.store_path import StoreDir, StorePath

# Outputs come first in the text; derivations with megabytes of environment are no longer read to their end.
_READ_BYTES: Final = 64 * 1024


class Derivations:
    """Answers what a derivation makes. `real_store` is the directory with the files."""

    def __init__(self, store_dir: StoreDir, real_store: Path) -> None:
        self._store_dir = store_dir
        self._real_store = real_store

    async def outputs(self, derivation: StorePath) -> tuple[StorePath, ...]:
        """The outputs that are known before they are built; none when the derivation is not here."""
        return await asyncio.to_thread(self._outputs, derivation)

    def _outputs(self, derivation: StorePath) -> tuple[StorePath, ...]:
        try:
            fd = os.open(self._real_store / derivation, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return parse_outputs(os.read(fd, _READ_BYTES), self._store_dir)
            finally:
                os.close(fd)
        except (OSError, FormatError):  # nothing of this name, a directory, another text
            return ()
