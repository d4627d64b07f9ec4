"""The image of container/Dockerfile, built and run by real engines, on bases that are made here, without a registry."""

import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import tomli_w
import yaml
from lab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT: Final = Path(__file__).parent.parent.parent
NAME: Final = "localhost/harmonia-py-tested"
MAKE_LIMIT: Final = 400
TIME_LIMIT: Final = 60.0
CANNOT: Final = 77
NOBODY: Final = 65532
CONFIGURATION: Final = "/etc/harmonia-py/harmonia.toml"
UPSTREAM_PORT: Final = 8000
NO_SUCH_PROGRAM: Final = 127

# What starts compose.yaml, in a network of its own with all that leads to others, where port 5000 is nobody's.
COMPOSE: Final = """
set -eu
ip link set lo up
mkdir -p /var/lib/cni /run/netns
mount -t tmpfs tmpfs /var/lib/cni
mount -t tmpfs tmpfs /run/netns
trap 'podman-compose --project-name tested down --volumes >&2' EXIT
podman-compose --project-name tested up --detach >&2
for _ in $(seq 50); do
    podman healthcheck run tested_harmonia-py_1 >&2 && break
    sleep 0.1
done
"$@"
"""

# What pip and apt are told on this machine about where things come from, they are told while the image is built.
OF_THIS_MACHINE: Final = ("/etc/pip.conf", "/etc/ssl/certs")


@dataclass(frozen=True, slots=True)
class Engine:
    """podman and buildah, with images of their own."""

    env: Mapping[str, str]

    def run(self, *command: str | Path, check: bool = True, limit: float = TIME_LIMIT) -> str:
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=False, timeout=limit, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self, *command: str | Path) -> int:
        done = subprocess.run(command, env=self.env, capture_output=True, check=False, timeout=TIME_LIMIT)
        return done.returncode


@dataclass(frozen=True, slots=True)
class Container:
    """One that runs, alone in a network of its own, where `inside` lets a program of this machine in."""

    engine: Engine
    id: str
    pid: int

    @property
    def inside(self) -> tuple[str, ...]:
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def is_healthy(self) -> bool:
        return self.engine.status("podman", "healthcheck", "run", self.id) == 0

    def logs(self) -> str:
        done = subprocess.run(
            ["podman", "logs", self.id],
            env=self.engine.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            timeout=TIME_LIMIT,
        )
        return done.stdout

    def wait_until_healthy(self) -> None:
        self.wait_for(self.is_healthy)

    def wait_for(self, condition: Any) -> None:
        deadline = time.monotonic() + TIME_LIMIT
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def ask(self, path: str) -> str:
        code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"
        return self.engine.run(*self.inside, sys.executable, "-c", code, f"http://127.0.0.1:5000{path}")


@pytest.fixture(scope="module")
def engine() -> Engine:
    made = subprocess.run(
        [PROJECT / "scripts/make-container-bases"], capture_output=True, text=True, check=False, timeout=MAKE_LIMIT
    )
    if made.returncode == CANNOT:
        pytest.skip(made.stderr.strip())
    assert made.returncode == 0, made.stderr
    lines = (Path(made.stdout.strip()) / "env").read_text().splitlines()
    return Engine(os.environ | dict(line.split("=", 1) for line in lines))


@pytest.fixture(scope="module")
def image(engine: Engine) -> Iterator[str]:
    mounts = [f"--volume={path}:{path}:ro" for path in OF_THIS_MACHINE if Path(path).exists()]
    engine.run(
        *("buildah", "build", "--isolation=chroot", "--pull-never", "--format=docker", *mounts),
        *("--file", PROJECT / "container/Dockerfile", "--tag", NAME, PROJECT),
        limit=MAKE_LIMIT,
    )
    yield NAME
    engine.run("podman", "image", "rm", "--force", NAME)


def options_of_compose() -> tuple[list[str], list[str]]:
    """What compose.yaml says of how the service runs, as podman has it, and its command."""
    service = yaml.safe_load((PROJECT / "container/compose.yaml").read_text())["services"]["harmonia-py"]
    named = [one for one in service["volumes"] if not one.startswith(("/", "."))]
    options = [
        *(["--read-only"] if service["read_only"] else []),
        *(f"--cap-drop={one}" for one in service["cap_drop"]),
        *(f"--security-opt={one.removesuffix(':true')}" for one in service["security_opt"]),
        *(f"--tmpfs={one}" for one in service["tmpfs"]),
        *(f"--volume=tested-{one}" for one in named),
    ]
    return options, service["command"]


@contextmanager
def started(engine: Engine, image: str, options: list[str], command: list[str]) -> Iterator[Container]:
    name = engine.run(
        *("podman", "run", "--detach", "--network=none", "--health-interval=disable", *options, image, *command)
    ).strip()
    try:
        pid = engine.run("podman", "inspect", "--format={{.State.Pid}}", name).strip()
        yield Container(engine, name, int(pid))
    finally:
        engine.run("podman", "rm", "--force", "--time=0", "--volumes", name)


@contextmanager
def composed(engine: Engine, image: str, file: Path, *more: str) -> Iterator[Container]:
    """As compose.yaml starts it, with this configuration in the place of the one beside it."""
    options, command = options_of_compose()
    with started(engine, image, [*options, f"--volume={file}:{CONFIGURATION}:ro", *more], command) as container:
        container.wait_until_healthy()
        yield container


@pytest.fixture
def volumes(engine: Engine) -> Iterator[None]:
    """Nothing is kept from test to test."""
    yield
    engine.run("podman", "volume", "rm", "--force", "tested-kept", "tested-state")


@pytest.fixture
def upstream(lab: Lab, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A folder that is a binary cache, and the configuration that mirrors it."""
    key = lab.secret_key("upstream-1")
    folder = tmp_path / "upstream"
    lab.nix("copy", "--to", f"file://{folder}?secret-key={key.secret_file}", lab.full(lab.closure.top))
    settings = tomllib.loads((PROJECT / "container/harmonia.toml").read_text())
    table = {"url": f"http://127.0.0.1:{UPSTREAM_PORT}", "public_keys": [key.public]}
    return folder, settings | {"upstream": [table], "virtual_nix_store": lab.store_dir}


@contextmanager
def served(container: Container, folder: Path) -> Iterator[None]:
    """The upstream, where the container reaches it."""
    command = [*container.inside, sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(UPSTREAM_PORT)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    probe = f"import socket; socket.create_connection(('127.0.0.1', {UPSTREAM_PORT}), 5).close()"
    try:
        container.wait_for(lambda: container.engine.status(*container.inside, sys.executable, "-c", probe) == 0)
        yield
    finally:
        process.terminate()
        process.wait(TIME_LIMIT)


def substitute(lab: Lab, container: Container, name: str, key: str) -> None:
    """What every client of the mirror does."""
    client = lab.client(name)
    client.run(
        *(*container.inside, "nix-store", "--realise", lab.full(lab.closure.top)),
        *("--option", "substituters", "http://127.0.0.1:5000", "--option", "trusted-public-keys", key),
    )
    assert client.real(lab.closure.top).exists()


@pytest.fixture(scope="module")
def idle(engine: Engine, image: str) -> Iterator[Container]:
    """A container in which nobody serves."""
    with started(engine, image, ["--entrypoint=/usr/bin/python3"], ["-c", "import time; time.sleep(600)"]) as container:
        yield container


def test_the_image_is_small_and_has_no_shell(engine: Engine, image: str, idle: Container) -> None:
    size = int(engine.run("podman", "image", "inspect", "--format={{.Size}}", image))
    print(f"the image has {size / 1e6:.0f} MB")
    assert size < 150_000_000
    for program in ("/bin/sh", "/bin/bash", "/usr/bin/apt", "/usr/bin/dpkg"):
        assert engine.status("podman", "exec", idle.id, program) == NO_SUCH_PROGRAM


def test_nobody_who_answers_is_not_healthy(idle: Container) -> None:
    assert not idle.is_healthy()


def test_every_verb_works_there(engine: Engine, idle: Container) -> None:
    """Whatever a library loads by name, such as certificates, colours and codecs, must be in the image."""
    verb = ("podman", "exec", idle.id, "/usr/bin/python3", "-m", "harmonia_py.cli")
    for name in ("compress", "verify", "mirror", "explain", "top"):
        engine.run(*verb, name, "--help")
    assert json.loads(engine.run(*verb, "doctor", "--json", check=False))
    assert ":" in engine.run(*verb, "generate-key", "a-1", "--output=/tmp/a")


def test_it_serves_on_its_port_as_nobody_and_ends_when_told(engine: Engine, image: str) -> None:
    with started(engine, image, ["--cap-drop=ALL"], []) as container:
        container.wait_until_healthy()
        assert "Priority: 30" in container.ask("/nix-cache-info")
        tasks = engine.run("podman", "top", container.id, "huser", "args").splitlines()[1:]
        assert len(tasks) == 5  # the supervisor and four workers
        status = Path(f"/proc/{container.pid}/status").read_text().split("\n")
        assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status
        assert "CapEff:\t0000000000000000" in status
        engine.run("podman", "stop", "--time=20", container.id)
        assert engine.run("podman", "inspect", "--format={{.State.ExitCode}}", container.id).strip() == "0"


@pytest.mark.usefixtures("volumes")
def test_nix_substitutes_from_the_composed_mirror_also_when_the_upstream_is_gone_and_it_was_started_again(
    engine: Engine, image: str, lab: Lab, upstream: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, settings = upstream
    key = settings["upstream"][0]["public_keys"][0]
    file = tmp_path / "harmonia.toml"
    file.write_text(tomli_w.dumps(settings))
    with composed(engine, image, file) as container:
        with served(container, folder):
            substitute(lab, container, "first", key)
            container.wait_for(lambda: "harmonia_cache_size_bytes" in container.ask("/metrics"))
        engine.run("podman", "kill", "--signal=HUP", container.id)
        container.wait_for(lambda: container.logs().count('"reloaded"') == settings["workers"])
    with composed(engine, image, file) as container:
        substitute(lab, container, "second", key)


def test_compose_starts_it_as_it_is(engine: Engine, image: str) -> None:
    """With its own network, its published port and its volumes; the upstream that it names cannot be reached."""
    engine.run("podman", "tag", image, "localhost/harmonia-py")
    try:
        code = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:5000/ready', timeout=20).read())"
        told = engine.run(
            *("env", "-C", PROJECT / "container", "unshare", "--net", "--mount", "--propagation", "private"),
            *("sh", "-c", COMPOSE, "sh", sys.executable, "-c", code),
        )
        assert told == "b'OK\\n'\n"
    finally:
        engine.run("podman", "image", "rm", "localhost/harmonia-py")


@pytest.mark.usefixtures("volumes")
def test_the_store_of_the_machine_is_served_where_it_is_mounted(
    engine: Engine, image: str, daemon: Lab, tmp_path: Path
) -> None:
    """What compose.yaml has in comments: the store, to read, and the daemon's socket."""
    file = tmp_path / "harmonia.toml"
    file.write_text(tomli_w.dumps({"virtual_nix_store": daemon.store_dir, "daemon_socket": str(daemon.socket)}))
    mounts = (f"--volume={daemon.store_dir}:{daemon.store_dir}:ro", f"--volume={daemon.socket}:{daemon.socket}")
    with composed(engine, image, file, *mounts) as container:
        client = daemon.client("one")
        url = "http://127.0.0.1:5000"
        client.run(*container.inside, "nix", "copy", "--no-check-sigs", "--from", url, daemon.full(daemon.closure.top))
        assert client.real(daemon.closure.top).exists()
