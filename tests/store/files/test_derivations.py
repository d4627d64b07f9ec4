"""Derivations in a store: what is none makes nothing, whatever stands in its place."""

import os
from pathlib import Path

import pytest
from lab import Lab

from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.store.files.derivations import Derivations

NAME = StorePath(f"{'0' * 32}-x.drv")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_its_outputs_are_those_that_nix_knows(lab: Lab) -> None:
    assert await Derivations(lab.store_dir, lab.real_store).outputs(lab.closure.derivation) == (lab.closure.top,)


@pytest.mark.parametrize("what", ["nothing", "directory", "pipe", "link", "other text"])
async def test_what_is_no_derivation_makes_nothing(tmp_path: Path, what: str) -> None:
    """A directory of such a name was an error of the server, whose descriptor stayed open."""
    file = tmp_path / NAME
    if what == "directory":
        file.mkdir()
    elif what == "pipe":
        os.mkfifo(file)
    elif what == "link":
        (tmp_path / "other").write_text('Derive([("out","/nix/store/00000000000000000000000000000000-x","","")],')
        file.symlink_to("other")
    elif what == "other text":
        file.write_bytes(b"Derive([\xff")
    before = descriptors()
    assert await Derivations(StoreDir("/nix/store"), tmp_path).outputs(NAME) == ()
    assert descriptors() == before
