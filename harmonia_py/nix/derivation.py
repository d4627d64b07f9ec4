"""The outputs of a derivation.

Source: `src/libstore/derivations.cc` of Nix; the format is ATerm's.
"""

import re
from typing import Final

from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import StoreDir, StorePath

# Names of outputs and store paths have nothing that would be escaped.
_STRING: Final = rb'"[^"\\]*"'
_OUTPUT: Final = re.compile(rb'\("[^"\\]*",("[^"\\]*"),' + _STRING + b"," + _STRING + rb"\)")
_OUTPUTS: Final = re.compile(rb"(?:Derive\(|DrvWithVersion\(" + _STRING + rb",)\[((?:\([^()]*\),?)*)\]")


def parse_outputs(data: bytes, store_dir: StoreDir) -> tuple[StorePath, ...]:
    """The paths of the outputs that are known before they are built, of the text of a derivation.

    Raises:
        FormatError: not a derivation.
    """
    match = _OUTPUTS.match(data)
    if match is None:
        raise FormatError("not a derivation")
    outputs = _OUTPUT.findall(match[1])
    if len(outputs) != match[1].count(b"("):
        raise FormatError("outputs of a derivation that no Nix writes")
    paths = [path[1:-1].decode("utf-8", "replace") for path in outputs]
    return tuple(store_dir.parse_path(path) for path in paths if path)
