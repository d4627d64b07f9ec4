"""The hash of a NAR that refers to its own store path: whose name follows from the hash, and so is not hashed.

Every occurrence of the path's hash part counts as zeros. Behind the last byte come the places where they were:

    sha256(NAR with zeros in place of the hash part  "|<offset>"  "|<offset>" …)

Nix 2.17 to 2.34 leave the places out (https://github.com/NixOS/nix/issues/15837): they give the same contents another
name, do not take what other versions made, nor those what they made. Source: `src/libstore/references.cc` of Nix.
"""

import hashlib
from array import array
from typing import Final

from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HASH_PART_LENGTH, HashPart

# Eight bytes of memory each. A large package has some ten thousand; an archive may consist of nothing else.
MAX_SELF_REFERENCES: Final = 2**20

_ZEROS: Final = bytes(HASH_PART_LENGTH)


class HashModulo:
    """Takes a NAR in chunks of any size; they make no difference.

    Args:
        hash_part: of the NAR's own store path.
    """

    __slots__ = ("_digest", "_hash_part", "_offset", "_pending", "_places")

    def __init__(self, hash_part: HashPart) -> None:
        self._hash_part = hash_part.encode()
        self._digest = hashlib.sha256()
        self._places = array("Q")
        self._pending = b""  # the last bytes, in which the hash part may have begun
        self._offset = 0  # of the first of them

    def update(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            FormatError: they refer to themselves more often than can be remembered.
        """
        data = self._pending + data
        view = memoryview(data)
        start = 0
        while (found := data.find(self._hash_part, start)) >= 0:
            if len(self._places) == MAX_SELF_REFERENCES:
                raise FormatError("it refers to itself too often")
            self._places.append(self._offset + found)
            self._digest.update(view[start:found])
            self._digest.update(_ZEROS)
            start = found + HASH_PART_LENGTH
        # One byte less than a hash part cannot hide one.
        stop = max(start, len(data) - HASH_PART_LENGTH + 1)
        self._digest.update(view[start:stop])
        self._pending = data[stop:]
        self._offset += stop

    def hashes(self) -> tuple[Hash, Hash]:
        """The hash of all bytes so far with the places behind them, and that without, which Nix 2.17 to 2.34 has."""
        digest = self._digest.copy()
        digest.update(self._pending)
        without = Hash("sha256", digest.digest())
        for place in self._places:
            digest.update(b"|%d" % place)
        return Hash("sha256", digest.digest()), without
