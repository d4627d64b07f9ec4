"""A booted Debian machine for a test: systemd, the nix-daemon, and this project installed as systemd/README.md says.

    with Machine(folder, tmp_path) as machine:
        machine.run("systemctl", "start", "harmonia-py")     # a program there, as root; raises when it fails
        machine.run(…, check=False)                          # does not raise
        machine.python("print(1)", "argument")               # what a script prints
        machine.drop_in("mirror.conf")                       # a file of systemd/, or its name and its text
        machine.journal()                                    # what the service said
        machine.main_pid(); machine.workers()                # process ids, as they are there
    machine.kill(process, "STOP")
    machine.share                                        # a folder that is /share there
    machine.leader                                       # its first process, as it is here: /proc/LEADER/ns/net

`folder` is what `scripts/make-machine` makes. Nothing in it changes: what the machine writes is in memory. Its network
is a loopback of its own.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final, Self

PROJECT: Final = Path(__file__).parent.parent
BOOT_LIMIT: Final = 120.0
TIME_LIMIT: Final = 60.0
END_LIMIT: Final = 20.0

# Machines that run at the same time do not share control groups: stopping a unit in one would end it in the others.
_OWN_GROUPS: Final = """
group=$1
shift
for mount in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
    if [ -e $mount/cgroup.procs ]; then
        mkdir -p $mount/$group
        echo $$ >$mount/$group/cgroup.procs
    fi
done
exec "$@"
"""
_COMMAND: Final = """\
#!/opt/harmonia-py/bin/python
import sys
from harmonia_py.cli import main
sys.exit(main())
"""
# The package's folder is of the Python there; all else is what systemd/README.md says.
_INSTALL: Final = """
cp -r /share/harmonia_py /opt/harmonia-py/lib/python3*/site-packages/
/opt/harmonia-py/bin/python -m compileall -q /opt/harmonia-py/lib/python3*/site-packages/harmonia_py
install -m 755 /share/harmonia-py /usr/bin/harmonia-py
cd /share/systemd
install -m 644 harmonia-py.service harmonia-py.socket /etc/systemd/system/
install -D -m 644 sysusers.conf /usr/lib/sysusers.d/harmonia-py.conf
systemd-sysusers
systemctl daemon-reload
"""


class Machine:
    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self.share = root / "share"
        self._console = root / "console"
        self._group = f"harmonia-py-machine-{secrets.token_hex(4)}"

    def __enter__(self) -> Self:
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / "harmonia_py", self.share / "harmonia_py", ignore=skip)
        shutil.copytree(PROJECT / "systemd", self.share / "systemd")
        command = self.share / "harmonia-py"
        command.write_text(_COMMAND)
        with self._console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                [
                    *("sh", "-ec", _OWN_GROUPS, "sh", self._group),
                    *("systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit"),
                    *("--private-network", "--volatile=overlay", "--console=read-only", "--kill-signal=SIGRTMIN+3"),
                    *(f"--directory={self._folder}", f"--bind={self.share}:/share"),
                ],
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        try:
            self._wait_until_booted()
            self.run("sh", "-ec", _INSTALL)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        # What SIGTERM means to it is in --kill-signal: power off.
        self._nspawn.terminate()
        try:
            self._nspawn.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._nspawn.pid, signal.SIGKILL)
            self._nspawn.wait(END_LIMIT)
        self._remove_groups()

    def _remove_groups(self) -> None:
        for mount in ("", "unified", "systemd"):
            for folder, _, _ in os.walk(Path("/sys/fs/cgroup", mount, self._group), topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()

    def _wait_until_booted(self) -> None:
        deadline = time.monotonic() + BOOT_LIMIT
        while True:
            console = self._console.read_text(errors="replace")
            assert self._nspawn.poll() is None, f"the machine ended:\n{console}"
            assert time.monotonic() < deadline, f"the machine does not boot:\n{console}"
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
            if children:
                self.leader: str = children[0]
                if self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"}:
                    return
            time.sleep(0.1)

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            [
                *("nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"),
                *("--root", "--wd", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIME_LIMIT,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}\n{self.journal()}"
            )
        return done.stdout

    def python(self, source: str, *arguments: str) -> str:
        return self.run("python3", "-c", source, *arguments)

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-ec", 'mkdir -p "$(dirname "$1")"; printf %s "$2" >"$1"', "sh", path, text)

    def copy(self, file: Path, path: str) -> None:
        shutil.copy(file, self.share / file.name)
        self.run("install", "-D", "-m", "755", f"/share/{file.name}", path)

    def drop_in(self, name: str, text: str | None = None) -> None:
        text = (PROJECT / "systemd" / name).read_text() if text is None else text
        self.write(f"/etc/systemd/system/harmonia-py.service.d/{name}", text)
        self.run("systemctl", "daemon-reload")

    def show(self, what: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={what}", "harmonia-py.service").strip()

    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def workers(self) -> list[int]:
        main = self.main_pid()
        # Between two of them it has none.
        if main == 0:
            return []
        return [int(one) for one in self.run("cat", f"/proc/{main}/task/{main}/children").split()]

    def kill(self, process: int, signal_name: str) -> None:
        # The shell's own: the program is in a package that not every machine has.
        self.run("sh", "-c", 'kill -s "$1" "$2"', "sh", signal_name, str(process))

    def journal(self) -> str:
        return self.run("journalctl", "--unit=harmonia-py.service", "--output=cat", "--no-pager", check=False)
