"""A machine that is booted once for all tests here: that takes longer than they do."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import PROJECT, Machine

MAKE_LIMIT = 600
CANNOT = 77
NIX_CONF = """\
sandbox = false
substituters =
experimental-features = nix-command
"""
# `top` refers to itself and to `low`; `big` is what no socket buffer holds.
EXPRESSIONS = """\
let make = name: script: extra: derivation ({
  inherit name; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-ec" script ];
} // extra);
in rec {
  low = make "low" "mkdir $out; echo low > $out/low" { };
  top = make "top" "mkdir $out; ln -s $low $out/low; echo $out > $out/self" { inherit low; };
  big = make "big" "head -c 20000000 /dev/urandom > $out" { };
}
"""


@pytest.fixture(scope="package")
def folder() -> Path:
    made = subprocess.run(
        [PROJECT / "scripts/make-machine"], capture_output=True, text=True, check=False, timeout=MAKE_LIMIT
    )
    if made.returncode == CANNOT:
        pytest.skip(made.stderr.strip())
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


@pytest.fixture(scope="package")
def booted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With a store in which the tests build."""
    with Machine(folder, tmp_path_factory.mktemp("machine")) as machine:
        machine.write("/etc/nix/nix.conf", NIX_CONF)
        machine.write("/root/store.nix", EXPRESSIONS)
        machine.run("systemctl", "restart", "nix-daemon.service")
        yield machine
