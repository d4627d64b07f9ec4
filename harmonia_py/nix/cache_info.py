"""`nix-cache-info`: what a binary cache says of itself.

Source: `src/libstore/binary-cache-store.cc` of Nix. Clients keep it for days, older ones for ever.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import StoreDir

_INTEGER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """Attributes: the store directory, whether mass queries are welcome, and the priority (smaller is asked first)."""

    store_dir: StoreDir
    want_mass_query: bool
    priority: int

    def format(self) -> bytes:
        """The text form."""
        mass_query = int(self.want_mass_query)
        return f"StoreDir: {self.store_dir}\nWantMassQuery: {mass_query}\nPriority: {self.priority}\n".encode()

    @classmethod
    def parse(cls, data: bytes, default_store_dir: StoreDir) -> Self:
        """Read the text form; lines without a colon and unknown names are ignored, absent ones have Nix's defaults.

        Raises:
            FormatError: not UTF-8, a malformed store directory, or a priority that is no number.
        """
        try:
            lines = data.decode().splitlines()
        except UnicodeDecodeError:
            raise FormatError("nix-cache-info is not UTF-8") from None
        parts = (line.partition(":") for line in lines)
        fields = {name.strip(): value.strip() for name, colon, value in parts if colon}
        priority = fields.get("Priority", "0")
        if _INTEGER.fullmatch(priority) is None:
            raise FormatError("nix-cache-info has a priority that is no number")
        store_dir = StoreDir.parse(fields["StoreDir"]) if "StoreDir" in fields else default_store_dir
        return cls(store_dir, fields.get("WantMassQuery") == "1", int(priority))
