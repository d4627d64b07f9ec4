"""Builds of one program against changing dependencies, in the store of a lab.

first = rebuild(lab, contents, "one")      # references itself and a dependency, in a large file and in a script
second = rebuild(lab, contents, "two")     # the same program, built against another dependency
"""

import random
from typing import Final

from lab import Lab

from harmonia_py.nix.store_path import StorePath

_EXPRESSION: Final = """
let make = name: script: extra: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-e" "-c" script ];
    PATH = "/usr/bin:/bin"; } // extra);
  dependency = make "library-1" "mkdir $out; echo CHANGE > $out/lib" { };
in make "NAME" ''
  mkdir -p $out/bin; cat DATA > $out/bin/program; echo "RUNPATH $dependency/lib:$out/lib" >> $out/bin/program
  cat DATA >> $out/bin/program; echo "exec $out/bin/program $dependency" > $out/wrapper
  for i in $(seq 40); do echo "CHANGE $i $out/bin $dependency/lib"; done > $out/bin/words
'' { inherit dependency; }
"""
# Of each byte: what compresses a little, as programs do.
_LETTERS: Final = bytes(97 + byte % 26 for byte in range(256))


def contents_of(size: int, seed: int = 1) -> bytes:
    """What a program may have in it."""
    return random.Random(seed).randbytes(size).translate(_LETTERS)


def rebuild(lab: Lab, contents: bytes, change: str, name: str = "program-1.0") -> StorePath:
    """A program with these contents twice in it, built against a dependency that has changed.

    Some kilobytes have references close to each other, so that a chunk has them, and the change as well.
    """
    data = lab.root / "data"
    data.write_bytes(contents)
    expression = _EXPRESSION.replace("CHANGE", change).replace("NAME", name).replace("DATA", str(data))
    done = lab.run("nix-build", "--no-out-link", "-E", expression)
    return lab.store_dir.parse_path(done.stdout.decode().strip())
