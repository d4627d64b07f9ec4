"""The page for Debian, typed as it is into a machine that was booted and has none of it."""

import re
import time

import pytest
from machine import PROJECT, TIME_LIMIT, Machine
from pages import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ONE_FILE = PROJECT / "dist/harmonia-py"
UNITS = "/etc/systemd/system"


def say(machine: Machine, text: str, place: str = "/share/systemd") -> str:
    """What root sees who types this; without a password, `sudo` is the command behind it."""
    return machine.run("bash", "-euc", f'sudo() {{ "$@"; }}; cd {place}; {text}')


def port_answers(machine: Machine, port: int) -> str:
    return say(machine, f"curl --silent --show-error --max-time 30 http://localhost:{port}/ready")


def until_said(machine: Machine, words: str) -> None:
    """The journal lags behind."""
    deadline = time.monotonic() + TIME_LIMIT
    while words not in (said := say(machine, "sudo journalctl -u harmonia-py")):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def test_the_page_for_debian(booted: Machine) -> None:
    page = Page("how-to/debian.md")
    install, start, check, key, port = page.blocks("sh")
    (other_port,) = page.blocks("ini")
    say(booted, f"systemctl stop harmonia-py.socket harmonia-py.service; rm -rf {UNITS}/harmonia-py.* /etc/harmonia-py")
    say(booted, "rm -f /usr/lib/sysusers.d/harmonia-py.conf; systemctl daemon-reload")
    if ONE_FILE.is_file():  # `make dist` makes it; otherwise the program is there as it was installed for the tests
        booted.copy(ONE_FILE, "/share/dist/harmonia-py")
        say(booted, install, "/share")

    say(booted, start)
    asked = re.search(r"`(curl http://localhost:5000/ready)` says `(\w+)`", page.text)
    assert asked is not None
    assert say(booted, asked[1]).strip() == asked[2]
    until_said(booted, "extra-trusted-public-keys = ")

    booted.write("/etc/harmonia-py/settings.toml", "priority = 20\n")
    say(booted, check)
    assert "Priority: 20\n" in say(booted, "curl --silent http://localhost:5000/nix-cache-info")

    made = re.search(r"cache\.example\.org-1:\S+", say(booted, key))
    assert made is not None
    port_answers(booted, 5000)
    until_said(booted, f"extra-trusted-public-keys = {made[0]}")

    path = booted.run("nix-store", "--add", "/etc/hostname").strip()
    explained = say(booted, f"sudo harmonia-py explain {path}")
    assert explained.splitlines()[-1] == "It would be served, signed by us with cache.example.org-1.", explained

    # It sees the key of the service, and that it signs.
    doctor = re.search(r"`(sudo harmonia-py doctor)`", page.text)
    assert doctor is not None
    found = say(booted, f"{doctor[1]} || true")
    assert made[0] in found, found
    assert found.splitlines()[-1].startswith("no failures, "), found

    # What `systemctl edit` writes.
    booted.write(f"{UNITS}/harmonia-py.socket.d/override.conf", other_port)
    say(booted, f"systemctl daemon-reload; {port}")
    assert port_answers(booted, 8080) == "OK\n"

    say(booted, f"systemctl stop harmonia-py.socket harmonia-py.service; rm -rf {UNITS}/harmonia-py.*.d")


def test_a_key_of_the_service_is_changed(booted: Machine) -> None:
    """The page named files of root in `sign_key_paths`, which the service cannot read: it did not start again."""
    generate, *_ = Page("how-to/keys.md").blocks("sh")
    both, _ = Page("how-to/keys.md").blocks("ini")
    say(booted, "install -d /etc/harmonia-py; rm -f /etc/harmonia-py/*")
    old = say(booted, "harmonia-py generate-key cache.example.org-1 --output /etc/harmonia-py/sign-key").strip()
    new = say(booted, generate).strip()
    say(booted, "install -m 644 harmonia-py.service harmonia-py.socket /etc/systemd/system/")
    booted.write(f"{UNITS}/harmonia-py.service.d/signing-key.conf", both)
    restart = re.search(
        r"`(sudo systemctl daemon-reload && sudo systemctl restart harmonia-py)`", Page("how-to/keys.md").text
    )
    assert restart is not None
    say(booted, restart[1])
    port_answers(booted, 5000)
    assert say(booted, "harmonia-py public-key").split() == [old, new]
    say(
        booted,
        f"systemctl stop harmonia-py.socket harmonia-py.service; rm -rf {UNITS}/harmonia-py.*.d /etc/harmonia-py",
    )
