"""A disk whose power can be cut: what nobody has made durable is lost, as the kernel's own ext4 loses it.

    with Disk(tmp_path / "disk") as disk:      # an empty file system at disk.path
        …                                      # processes write there; then they are killed
        disk.cut()                             # disk.path is what the device had, after its journal was replayed

The file system lies in a file. A power cut is a copy of that file at a moment when none of the processes runs any more:
what is in the page cache alone is not in it, and what was written is there as far as it was synced.
"""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_SIZE: Final = 192 * 1024 * 1024
# The kernel itself commits its journal every five seconds; here only what asks for it.
_OPTIONS: Final = "loop,commit=600,noatime"
_MEMORY: Final = Path("/dev/shm")  # a device in memory does not wait for that of the machine
_TIME_LIMIT: Final = 60.0


def missing() -> str | None:
    """Why there can be no such disk here; None when there can."""
    if os.geteuid() != 0:
        return "only root can mount a file system"
    if shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices here"
    return None


class Disk:
    """A file system in a file, mounted while the context lasts.

    Args:
        path: where it is mounted; made.
        template: a disk as `save` has written it; None for an empty one.
    """

    def __init__(self, path: Path, template: Path | None = None) -> None:
        self.path = path
        self._template = template
        self._images = _MEMORY if _MEMORY.is_dir() else path.parent
        self._image = self._images / f"harmonia-py-{os.getpid()}-{path.name}-0.img"
        self._cuts = 0

    def __enter__(self) -> Self:
        self.path.mkdir(exist_ok=True)
        if self._template is not None:
            _copy(self._template, self._image)
        else:
            with self._image.open("wb") as image:
                image.truncate(_SIZE)
            _run("mkfs.ext4", "-q", "-F", str(self._image))
        try:
            _run("mount", "-o", _OPTIONS, str(self._image), str(self.path))
        except BaseException:
            self._image.unlink()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unmount()

    def cut(self) -> None:
        """Cut the power, and bring the disk back. No process may use it meanwhile."""
        self._cuts += 1
        after = self._images / f"harmonia-py-{os.getpid()}-{self.path.name}-{self._cuts}.img"
        _copy(self._image, after)
        self._unmount()
        self._image = after
        _run("mount", "-o", _OPTIONS, str(self._image), str(self.path))

    def save(self, template: Path) -> None:
        """Write what is on the disk now to a file, from which others can begin."""
        os.sync()
        _run("umount", str(self.path))
        _copy(self._image, template)
        _run("mount", "-o", _OPTIONS, str(self._image), str(self.path))

    def _unmount(self) -> None:
        try:
            _run("umount", str(self.path))
        except subprocess.CalledProcessError:
            with suppress(subprocess.CalledProcessError):
                _run("umount", "--lazy", str(self.path))
            raise
        finally:
            self._image.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    _run("cp", "--sparse=always", str(source), str(target))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_TIME_LIMIT)
