"""Labs with the small closure without building it for each: `Template(root).lab()`."""

import shutil
from pathlib import Path
from uuid import uuid4

from lab import Closure, Lab


class Template:
    """Labs with the small closure, one after the other at the same `root`: hash parts depend on the store dir.

    The closure is built once, and its files are copied to each lab: building takes ten times as long.
    """

    def __init__(self, root: Path, *, chroot: bool = False) -> None:
        self._root = root
        self._chroot = chroot
        self._files = root.with_name(f"{root.name}-template")
        self._closure: Closure | None = None

    def lab(self) -> Lab:
        """A new lab; the one before it has been closed, and moved away from the root."""
        self._root.mkdir()
        try:
            lab = Lab(self._root, chroot=self._chroot)
            if self._closure is None:
                closure = lab.build()
                shutil.copytree(self._root / "nix", self._files, symlinks=True)
                self._closure = closure
            else:
                shutil.copytree(self._files, self._root / "nix", symlinks=True)
        except BaseException:
            # A test that runs out of time here fails alone: the next one begins anew.
            self._root.rename(self._root.with_name(f"{self._root.name}-failed-{uuid4()}"))
            if self._closure is None and self._files.exists():
                self._files.rename(self._root.with_name(f"{self._files.name}-failed-{uuid4()}"))
            raise
        lab.closure = self._closure
        return lab
