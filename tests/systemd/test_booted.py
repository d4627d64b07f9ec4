"""The service on a machine that was booted: systemd starts it, confines it, watches it, and clients get all of it."""

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import waiting
from machine import PROJECT, Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TIME_LIMIT = 60.0
wait_until = partial(waiting.wait_until, seconds=TIME_LIMIT)
URL = "http://127.0.0.1:5000"
ONE_FILE = PROJECT / "dist/harmonia-py"

GET = """\
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode(), end="")
"""
# Downloads the same file on four connections at once until it is told to stop; prints how many were whole.
LOAD = """\
import hashlib, os, sys, threading, urllib.request
url, stop = sys.argv[1:]
def get():
    return hashlib.sha256(urllib.request.urlopen(url, timeout=30).read()).digest()
expected, whole, failures = get(), [], []
def load():
    while not failures and (len(whole) < 40 or not os.path.exists(stop)):
        try:
            assert get() == expected, "other bytes"
            whole.append(1)
        except Exception as error:
            failures.append(repr(error))
threads = [threading.Thread(target=load) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failures, failures
print(len(whole))
"""


@pytest.fixture(scope="module")
def top(booted: Machine) -> str:
    return booted.run("nix-build", "--no-out-link", "/root/store.nix", "-A", "top").strip()


@pytest.fixture(scope="module")
def big(booted: Machine) -> str:
    return booted.run("nix-build", "--no-out-link", "/root/store.nix", "-A", "big").strip()


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    """`booted`, where only the socket is there, and no drop-in."""
    booted.run("systemctl", "stop", "harmonia-py.socket", "harmonia-py.service")
    booted.run("rm", "-rf", "/etc/systemd/system/harmonia-py.service.d", "/etc/harmonia-py")
    booted.run("install", "-d", "/etc/harmonia-py")
    booted.run("journalctl", "--rotate", "--vacuum-time=1s", "--quiet")
    booted.run("systemctl", "daemon-reload")
    booted.run("systemctl", "reset-failed", "harmonia-py.service", check=False)
    booted.run("systemctl", "start", "harmonia-py.socket")
    yield booted
    print(booted.journal())


def get(machine: Machine, path: str) -> str:
    return machine.python(GET, URL + path)


def start(machine: Machine) -> int:
    """The main process of a service that has told systemd that it is ready; its first worker answers before that."""
    get(machine, "/health")
    wait_until(lambda: machine.show("ActiveState") == "active", "the service is ready")
    return machine.main_pid()


def nar_of(machine: Machine, store_path: str) -> str:
    hash_part = store_path.removeprefix("/nix/store/")[:32]
    found = re.search(r"^URL: (.*)$", get(machine, f"/{hash_part}.narinfo"), re.MULTILINE)
    assert found is not None
    return f"{URL}/{found[1]}"


def public_key(machine: Machine) -> str:
    """The key that the service which runs now has printed; the journal also has those before it, and lags behind."""
    invocation = f"_SYSTEMD_INVOCATION_ID={machine.show('InvocationID')}"
    deadline = time.monotonic() + TIME_LIMIT
    while True:
        said = machine.run("journalctl", invocation, "--output=cat", "--no-pager", check=False)
        found = re.search(r"extra-trusted-public-keys = (\S+)", said)
        if found is not None:
            return found[1]
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def substitute(machine: Machine, store_path: str, key: str) -> None:
    """Bring the closure of `store_path` into an empty store."""
    machine.run("rm", "-rf", "/client", "/root/.cache")
    options = ("--option", "substituters", URL, "--option", "trusted-public-keys", key)
    machine.run("nix-store", "--store", "/client", "--realise", store_path, *options)


def test_the_first_connection_starts_it(machine: Machine) -> None:
    assert machine.show("ActiveState") == "inactive"
    assert get(machine, "/nix-cache-info").startswith("StoreDir: /nix/store\n")
    wait_until(lambda: machine.show("ActiveState") == "active", "the service is ready")
    assert machine.show("StatusText").startswith("harmonia-py ")


def test_a_client_gets_a_closure_through_the_nix_daemon(machine: Machine, top: str) -> None:
    get(machine, "/nix-cache-info")
    substitute(machine, top, public_key(machine))
    assert machine.run("cat", f"/client{top}/self").strip() == top
    assert "through the nix-daemon" in machine.journal()


def test_it_misses_nothing_that_was_taken_from_it(machine: Machine, big: str) -> None:
    """Compressing, keeping, its figures, its checks: each needs something of the machine."""
    machine.python(GET.replace(".decode()", "[:0].decode()"), nar_of(machine, big))
    assert get(machine, "/ready") == "OK\n"
    figures = get(machine, "/metrics")
    found = re.search(r"^process_start_time_seconds (\S+)$", figures, re.MULTILINE)
    assert found is not None
    assert abs(float(found[1]) - time.time()) < 300
    wait_until(lambda: "FileHash: " in get(machine, f"/{big[11:43]}.narinfo"), "kept")
    assert machine.run("stat", "-c", "%u", f"/proc/{machine.main_pid()}").strip() != "0"
    assert not re.search("(?i)^(warning|error)|traceback", machine.journal(), re.MULTILINE)


def test_a_key_that_only_root_can_read_signs(machine: Machine, top: str) -> None:
    machine.run("harmonia-py", "generate-key", "cache.example.org-1", "--output", "/etc/harmonia-py/sign-key")
    machine.drop_in("signing-key.conf")
    machine.write("/etc/harmonia-py/settings.toml", "priority = 20\n")
    assert "Priority: 20\n" in get(machine, "/nix-cache-info")
    assert machine.run("stat", "-c", "%U %a", "/etc/harmonia-py/sign-key").split() == ["root", "600"]
    key = public_key(machine)
    assert key.startswith("cache.example.org-1:")
    substitute(machine, top, key)


def test_a_reload_under_load_drops_nothing(machine: Machine, big: str) -> None:
    start(machine)
    url, stop = nar_of(machine, big), "/root/stop"
    machine.run("rm", "-f", stop)
    main, workers = machine.main_pid(), machine.workers()
    with ThreadPoolExecutor() as executor:
        load = executor.submit(machine.python, LOAD, url, stop)
        for priority in range(20, 25):
            machine.write("/etc/harmonia-py/settings.toml", f"priority = {priority}\n")
            machine.run("systemctl", "reload", "harmonia-py.service")
        machine.run("touch", stop)
        assert int(load.result()) >= 40
    assert (machine.main_pid(), machine.workers()) == (main, workers)
    wait_until(lambda: "Priority: 24\n" in get(machine, "/nix-cache-info"), "the last configuration")


@pytest.mark.parametrize("drop_ins", [(), ("older-systemd.conf",)], ids=["notify-reload", "older systemd"])
def test_a_reload_of_a_broken_file_fails_and_changes_nothing(machine: Machine, drop_ins: tuple[str, ...]) -> None:
    """`systemctl reload` said that all was well, and the log said `not reloaded`."""
    for drop_in in drop_ins:
        machine.drop_in(drop_in)
    machine.write("/etc/harmonia-py/settings.toml", "priority = 20\n")
    main = start(machine)
    assert "Priority: 20\n" in get(machine, "/nix-cache-info")
    for broken in ('priority = "high"\n', 'priority = 21\nsign_key_paths = ["/nowhere"]\n'):
        machine.write("/etc/harmonia-py/settings.toml", broken)
        reload = "systemctl reload harmonia-py.service && echo done"
        assert machine.run("sh", "-c", reload, check=False) == ""
        assert "Priority: 20\n" in get(machine, "/nix-cache-info")
    machine.write("/etc/harmonia-py/settings.toml", "priority = 22\n")
    machine.run("systemctl", "reload", "harmonia-py.service")
    wait_until(lambda: "Priority: 22\n" in get(machine, "/nix-cache-info"), "the last configuration")
    assert machine.main_pid() == main


def test_its_memory_and_its_threads_have_a_bound(machine: Machine) -> None:
    get(machine, "/health")
    found = re.search(r"^MemTotal: +(\d+) kB", machine.run("cat", "/proc/meminfo"), re.MULTILINE)
    assert found is not None
    total = int(found[1]) * 1024
    assert abs(int(machine.show("MemoryMax")) - total / 2) < total / 100
    assert machine.show("TasksMax") == "2048"


def test_it_restarts_after_a_crash_and_who_connects_meanwhile_waits(machine: Machine) -> None:
    main, workers = start(machine), machine.workers()
    machine.kill(main, "KILL")
    assert get(machine, "/health") == "OK\n"
    wait_until(lambda: machine.main_pid() not in {0, main}, "another main process")
    assert machine.show("NRestarts") != "0"
    wait_until(lambda: not set(workers) & set(machine.workers()), "other workers")


def test_the_watchdog_notices_a_worker_that_is_stuck(machine: Machine) -> None:
    machine.drop_in("watchdog.conf", "[Service]\nWatchdogSec=4\n")
    start(machine)
    stuck = machine.workers()[0]
    machine.kill(stuck, "STOP")
    wait_until(lambda: machine.main_pid() and stuck not in machine.workers(), "the stuck worker is gone")
    wait_until(lambda: len(machine.workers()) == 4, "another in its place")
    assert get(machine, "/health") == "OK\n"


def test_the_watchdog_notices_a_main_process_that_is_stuck(machine: Machine) -> None:
    machine.drop_in("watchdog.conf", "[Service]\nWatchdogSec=4\n")
    main = start(machine)
    machine.kill(main, "STOP")
    wait_until(lambda: machine.main_pid() not in {0, main}, "another main process")
    assert get(machine, "/health") == "OK\n"


def test_the_watchdog_leaves_alone_who_is_well(machine: Machine) -> None:
    machine.drop_in("watchdog.conf", "[Service]\nWatchdogSec=1\n")
    main, began = start(machine), time.monotonic()
    wait_until(lambda: time.monotonic() > began + 5, "five times the watchdog's patience")
    assert machine.main_pid() == main
    assert machine.show("NRestarts") == "0"


def test_only_a_mirror_has_a_network(machine: Machine) -> None:
    def network() -> str:
        get(machine, "/health")
        return machine.run("readlink", f"/proc/{machine.main_pid()}/ns/net")

    of_the_machine = machine.run("readlink", "/proc/1/ns/net")
    assert network() != of_the_machine
    machine.drop_in("mirror.conf")
    machine.run("systemctl", "restart", "harmonia-py.service")
    assert network() == of_the_machine


def test_a_mirror_keeps_what_its_upstream_has(machine: Machine, top: str) -> None:
    """Its name is resolved, what comes is decompressed, verified and kept, and served when the upstream is away."""
    machine.run("rm", "-rf", "/upstream", "/upstream.secret")
    key = machine.run("harmonia-py", "generate-key", "upstream-1", "--output", "/upstream.secret").strip()
    machine.run("nix", "copy", "--to", "file:///upstream?secret-key=/upstream.secret&compression=xz", top)
    machine.run("systemd-run", "--unit=upstream", "python3", "-m", "http.server", "--directory=/upstream", "8081")
    upstream = f'[[upstream]]\nurl = "http://localhost:8081"\npublic_keys = ["{key}"]\n'
    # No way to the local store, so that nothing comes from there.
    settings = f'daemon_socket = "/nowhere"\nreal_nix_store = "/nowhere/nix/store"\n{upstream}'
    machine.write("/etc/harmonia-py/settings.toml", settings)
    machine.drop_in("mirror.conf")
    try:
        wait_until(lambda: machine.run("python3", "-c", GET, "http://localhost:8081/nix-cache-info", check=False), "it")
        substitute(machine, top, key)
    finally:
        machine.run("systemctl", "stop", "upstream.service")
    substitute(machine, top, key)


def test_what_was_written_down_is_pushed_by_the_service_that_pushes(machine: Machine, top: str) -> None:
    """It restarted for ever: it asks for a login below /root, and that was forbidden, where it should not be there."""
    machine.write("/root/team.toml", 'bind = "127.0.0.1:5001"\n[caches.team]\npublic = true\n')
    serve = ("harmonia-py", "serve", "--config", "/root/team.toml")
    machine.run("systemd-run", "--unit=team", "--property=StateDirectory=team", *serve)
    create = ("token", "create", "ci", "--cache", "team", "--allow", "read,push", "--config", "/root/team.toml")
    token = machine.run("env", "STATE_DIRECTORY=/var/lib/team", "harmonia-py", *create)
    machine.write("/etc/harmonia-py/push.env", "CACHE=http://127.0.0.1:5001/team\n")
    machine.write("/etc/harmonia-py/push-token", token)
    machine.run("install", "-m", "644", "/share/systemd/harmonia-py-push.service", "/etc/systemd/system/")
    machine.run("systemctl", "daemon-reload")
    machine.run("harmonia-py", "hook", "add", "--queue", "/var/lib/harmonia-py-push", top)
    status = ("harmonia-py", "hook", "status", "--json", "--queue", "/var/lib/harmonia-py-push")
    said = ("journalctl", "--unit=harmonia-py-push.service", "--output=cat", "--no-pager")
    try:
        machine.run("systemctl", "start", "harmonia-py-push.service")
        wait_until(lambda: '"waiting": 0' in machine.run(*status), "nothing waits")
        assert '"aside": {}' in machine.run(*status)
        assert top in machine.python(GET, f"http://127.0.0.1:5001/team/{top[11:43]}.narinfo")
    finally:
        print(machine.run(*said, check=False))
        machine.run("systemctl", "stop", "harmonia-py-push.service", "team.service")


def test_a_program_that_unpacks_itself_runs_from_the_cache_directory(machine: Machine) -> None:
    """On a disk of Debian 13 the one file did not start as the service: `failed to map segment from shared object`.

    The disk of this machine is an overlay, whose directories cannot be given to a user as those of a disk are.
    """
    machine.run("mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", "/var/cache/private")
    try:
        unpack = "cp /usr/bin/true $$CACHE_DIRECTORY/unpacked && exec $$CACHE_DIRECTORY/unpacked"
        machine.drop_in("unpacks.conf", f"[Service]\nExecStartPre=/bin/sh -c '{unpack}'\n")
        assert get(machine, "/ready") == "OK\n"
        mounts = machine.run("cat", f"/proc/{machine.main_pid()}/mountinfo").splitlines()
        (cache,) = [line for line in mounts if line.split()[4] == "/var/cache/private/harmonia-py"]
        assert "idmapped" in cache
    finally:
        machine.run("systemctl", "stop", "harmonia-py.socket", "harmonia-py.service")
        machine.run("umount", "/var/cache/private")


@pytest.mark.skipif(not ONE_FILE.is_file(), reason="`make dist` makes it")
def test_the_one_file_runs_as_the_service(machine: Machine, top: str) -> None:
    machine.copy(ONE_FILE, "/opt/one-file")
    machine.drop_in("one-file.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/python3 /opt/one-file serve\n")
    get(machine, "/nix-cache-info")
    substitute(machine, top, public_key(machine))
    assert machine.run("sh", "-c", "ls -A /var/cache/private/harmonia-py/.program").strip()
    machine.run("systemctl", "reload", "harmonia-py.service")
    assert get(machine, "/ready") == "OK\n"


def test_it_stops_at_once_when_it_is_told_to(machine: Machine) -> None:
    start(machine)
    machine.run("systemctl", "stop", "harmonia-py.socket", "harmonia-py.service")
    assert machine.show("Result") == "success"
    assert machine.show("ExecMainStatus") == str(os.EX_OK)
