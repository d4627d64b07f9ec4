"""Other versions of Nix than the installed one, in the folders that `scripts/make-nix-versions` makes.

    version.wrap(lab_or_client.env, tmp_path)   # the same environment, whose `nix…` commands are this version's

Each command runs with that folder as its root, in a mount namespace of its own: the devices, the process table and
what is beside `tmp_path`, where labs are, are those of this machine, and so is the network. Nothing stays mounted. The
environment is all a `Lab` or a `Client` needs to work with another Nix.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMMANDS: Final = ("nix", "nix-build", "nix-collect-garbage", "nix-daemon", "nix-instantiate", "nix-store")

# `exec` all the way: the process that the test started is Nix itself, and a signal reaches it.
_WRAPPER: Final = """\
#!/bin/sh
exec unshare --mount /bin/sh -ec '
  folder=$1 shared=$2 command=$3
  shift 3
  mount -t tmpfs tmpfs "$folder/tmp"
  mount --rbind /proc "$folder/proc"
  mount --rbind /sys "$folder/sys"
  mount --rbind /dev "$folder/dev"
  mkdir -p "$folder$shared"
  mount --bind "$shared" "$folder$shared"
  PATH=/usr/sbin:/usr/bin:/sbin:/bin
  export PATH
  exec chroot "$folder" "$command" "$@"
' sh {folder} {shared} {command} "$@"
"""


@dataclass(frozen=True, slots=True)
class NixVersion:
    """A Nix: the installed one, or the one in a folder.

    Attributes:
        name: first two numbers of the version.
        folder: the root directory to run it in; None for the installed one.
    """

    name: str
    folder: Path | None = None

    @property
    def missing(self) -> str | None:
        """Why this version cannot run here; None when it can."""
        if self.folder is None:
            return None
        if os.geteuid() != 0:
            return f"only root can run Nix {self.name} in {self.folder}"
        if not self.folder.is_dir():
            return f"Nix {self.name} is not in {self.folder}: run `make test-nix-versions`, which puts it there"
        return None

    def wrap(self, env: Mapping[str, str], directory: Path) -> dict[str, str]:
        """The environment `env` with this Nix.

        Its commands see of this machine's files those in `directory`, of a test, and what is beside that: the labs.
        """
        if self.folder is None:
            return dict(env)
        wrappers = directory / f"nix-{self.name}"
        wrappers.mkdir(exist_ok=True)
        places = {"folder": shlex.quote(str(self.folder)), "shared": shlex.quote(str(directory.parent))}
        for command in COMMANDS:
            wrapper, text = wrappers / command, _WRAPPER.format(command=command, **places)
            # One that runs at this moment cannot be written ("Text file busy").
            if not wrapper.exists() or wrapper.read_text() != text:
                wrapper.write_text(text)
                wrapper.chmod(0o755)
        return {**env, "PATH": f"{wrappers}:{env['PATH']}"}


def _folders() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HARMONIA_PY_CACHE") or Path(cache) / "harmonia-py") / "nix-versions"


INSTALLED: Final = NixVersion("installed")
VERSIONS: Final = (INSTALLED, NixVersion("2.26", _folders() / "trixie"), NixVersion("2.34", _folders() / "forky"))
