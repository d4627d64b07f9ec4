"""`nix-cache-info`: the facts of a binary cache for its clients.

Source: `src/libstore/binary-cache-store.cc` of Nix. Clients keep it for days, older ones for ever.
"""

import re
from typing import Final, Self

from msgspec import Struct

from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import StoreDir

# Nix reads the priority with `std::stoi`: a sign, digits, and then whatever may follow.
_PRIORITY: Final = re.compile(r"[+-]?[0-9]{1,9}(?![0-9])", re.ASCII)
_WHITE_SPACE: Final = " \t\r\n"


class CacheInfo(Struct, frozen=True):
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
        """Read the text form as Nix does: no colon or an unknown name is ignored, what is absent has its default.

        Raises:
            FormatError: not UTF-8, a malformed store directory, or a priority that is no number.
        """
        try:
            lines = data.decode().split("\n")
        except UnicodeDecodeError:
            raise FormatError("nix-cache-info is not UTF-8") from None
        parts = (line.partition(":") for line in lines)
        fields = {name: value.strip(_WHITE_SPACE) for name, colon, value in parts if colon}
        priority = _PRIORITY.match(fields.get("Priority", "0"))
        if priority is None:
            raise FormatError("nix-cache-info has a priority that is no number")
        store_dir = StoreDir.parse(fields["StoreDir"]) if "StoreDir" in fields else default_store_dir
        return cls(store_dir, fields.get("WantMassQuery") == "1", int(priority[0]))
