"""Realisations: the store paths that outputs of content-addressed derivations turned out to be.

Source: `src/libstore/realisation.cc` of Nix; "Build Trace" in the Nix manual. Two schemes exist, and neither key can be
computed from the other without the closure of the derivation:

* up to Nix 2.34 the key is the hash of the derivation modulo its inputs, `realisations/sha256:<hex>!<output>.doi`;
* from Nix 2.35 on it is the derivation itself, `build-trace-v2/<derivation>/<output>.doi`, and the file is the value.
"""

import json
import re
from typing import Any, Final, Self

from msgspec import Struct

from harmonia_py import json_text
from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.signing import Signature, parse_signatures
from harmonia_py.nix.store_path import StorePath, parse_name

_HASH_MODULO: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)

# One entry of `dependentRealisations` has some 300 bytes, so this is thousands of them; real ones have a handful.
MAX_REALISATION_SIZE: Final = 1024 * 1024


class DrvOutput(Struct, frozen=True):
    """An output of a derivation: the key of a realisation. Made by `parse` or `of`.

    Attributes:
        derivation: its hash modulo inputs (Nix up to 2.34), or its store path (from 2.35 on).
        output_name: such as `out`.
    """

    derivation: Hash | StorePath
    output_name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:<64 hexadecimal digits>!<output name>`.

        Raises:
            FormatError: anything else.
        """
        derivation, _, output_name = text.partition("!")
        if _HASH_MODULO.fullmatch(derivation) is None:
            raise FormatError("the key of a realisation begins with a hash in base-16")
        return cls(Hash.parse(derivation), parse_name(output_name))

    @classmethod
    def of(cls, derivation: StorePath, output_name: str) -> Self:
        """The output of that name of `derivation`.

        Raises:
            FormatError: not a derivation, or no name for an output.
        """
        if not derivation.is_derivation:
            raise FormatError("not a derivation")
        return cls(derivation, parse_name(output_name))

    def __str__(self) -> str:
        """The text that `parse` reads; for a derivation's store path `<base name>^<output name>`."""
        if isinstance(self.derivation, Hash):
            return f"{self.derivation.algorithm}:{self.derivation.base16}!{self.output_name}"
        return f"{self.derivation}^{self.output_name}"


class Realisation(Struct, frozen=True, kw_only=True):
    """The realisation of a derivation's output.

    Attributes:
        id: the output.
        out_path: the store path that it is.
        signatures: those that parse, sorted.
        dependent_realisations: of the references of `out_path`, sorted by `str` of the output; Nix up to 2.33 only.
    """

    id: DrvOutput
    out_path: StorePath
    signatures: tuple[Signature, ...] = ()
    dependent_realisations: tuple[tuple[DrvOutput, StorePath], ...] = ()

    @classmethod
    def parse_old(cls, data: bytes | str) -> Self:
        """Read the JSON of Nix up to 2.34, a file's or the worker protocol's; malformed signatures are dropped.

        Raises:
            FormatError: not such JSON.
        """
        fields = _object(data)
        dependencies = fields.get("dependentRealisations", {})
        if not isinstance(dependencies, dict):
            raise FormatError("dependentRealisations is no object")
        return cls(
            id=DrvOutput.parse(_text(fields, "id")),
            out_path=StorePath.parse(_text(fields, "outPath")),
            signatures=_signatures(fields),
            dependent_realisations=tuple(
                (DrvOutput.parse(key), StorePath.parse(_text(dependencies, key))) for key in sorted(dependencies)
            ),
        )

    @classmethod
    def parse_new(cls, data: bytes | str, id_: DrvOutput) -> Self:
        """Read the JSON of Nix from 2.35 on, which does not repeat the key; malformed signatures are dropped.

        Raises:
            FormatError: not such JSON.
        """
        fields = _object(data)
        return cls(id=id_, out_path=StorePath.parse(_text(fields, "outPath")), signatures=_signatures(fields))

    def format_old(self) -> bytes:
        """The JSON of Nix up to 2.34, signatures as strings, which is all that releases before 2.34 read."""
        return _dump(self._old_value() | {"signatures": [str(signature) for signature in self.signatures]})

    def format_new(self) -> bytes:
        """The JSON of Nix from 2.35 on: the value without its key."""
        return _dump({"outPath": self.out_path, "signatures": [signature.to_json() for signature in self.signatures]})

    def fingerprint(self) -> bytes:
        """The bytes a signature of this realisation signs; the scheme follows from what `id.derivation` is."""
        if isinstance(self.id.derivation, Hash):
            return _dump(self._old_value())
        key = {"drvPath": self.id.derivation, "outputName": self.id.output_name}
        return _dump({"key": key, "value": {"outPath": self.out_path}})

    def _old_value(self) -> dict[str, Any]:
        # A store path as the key would be read as a malformed hash by every client.
        assert isinstance(self.id.derivation, Hash)
        dependencies = {str(output): path for output, path in self.dependent_realisations}
        return {"dependentRealisations": dependencies, "id": str(self.id), "outPath": self.out_path}


def _object(data: bytes | str) -> dict[str, Any]:
    if len(data) > MAX_REALISATION_SIZE:
        raise FormatError("the realisation is too long")
    try:
        value = json_text.decode(data)
    except FormatError:
        raise FormatError("the realisation is not JSON") from None
    if not isinstance(value, dict):
        raise FormatError("the realisation is no object")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise FormatError("a field of the realisation is no string")
    return value


def _signatures(fields: dict[str, Any]) -> tuple[Signature, ...]:
    values = fields.get("signatures", [])
    if not isinstance(values, list):
        raise FormatError("the signatures of the realisation are no list")
    return parse_signatures(_signature_text(value) for value in values)


def _signature_text(value: object) -> str:
    if isinstance(value, dict):
        return f"{_text(value, 'keyName')}:{_text(value, 'sig')}"
    if not isinstance(value, str):
        raise FormatError("a signature of the realisation is neither string nor object")
    return value


def _dump(value: dict[str, Any]) -> bytes:
    # As Nix dumps JSON: keys sorted, no white space, UTF-8 as it is. Signatures depend on every byte.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
