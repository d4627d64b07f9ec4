"""Whom the nix-daemon trusts, held against what Nix itself reads in the same files."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from faulty_cache import bad
from lab import Lab
from server import settings_of

from harmonia_py.commands.doctor import importing
from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.config.settings import Config
from harmonia_py.nix.signing import PublicKey, SecretKey

UPSTREAM, OURS, OTHER = (SecretKey.generate(f"{name}-1").public_key for name in ("upstream", "ours", "other"))


def config(lab: Lab, **settings: Any) -> Config:
    upstreams = [{"url": "http://up.example", "name": "up", "public_keys": [str(UPSTREAM)]}]
    return msgspec.convert(settings_of(lab) | {"upstream": upstreams, "mirror": {"import": True}} | settings, Config)


async def findings(lab: Lab, *ours: PublicKey, **settings: Any) -> list[Finding]:
    environment = {"NIX_CONF_DIR": str(lab.root / "etc")}
    return await importing.look_at(config(lab, **settings), lambda: ours, environment)


def configure(lab: Lab, *lines: str, name: str = "nix.conf") -> None:
    with (lab.root / "etc" / name).open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [f"trusted-public-keys = {UPSTREAM}"],
        [f"trusted-public-keys = {UPSTREAM} {OTHER}  # of somebody", f"extra-trusted-public-keys = {OURS}"],
        [f"extra-trusted-public-keys = {UPSTREAM}"],
        [f"trusted-public-keys = {UPSTREAM}", f"trusted-public-keys = {OTHER}"],
        [f"# trusted-public-keys = {UPSTREAM}"],
        ["include more.conf", "!include nowhere.conf"],
        [f"binary-cache-public-keys = {UPSTREAM}"],
        ["require-sigs = false"],
        [
            f"extra-trusted-public-keys = {OURS}",
            f"trusted-public-keys = {OTHER}",
            f"extra-binary-cache-public-keys = {UPSTREAM}",
        ],
    ],
    ids=["nothing", "one", "extra", "extra alone", "twice", "comment", "include", "old name", "unsigned", "order"],
)
def test_the_same_keys_are_found_as_nix_finds(lab: Lab, lines: list[str]) -> None:
    text = (lab.root / "etc" / "nix.conf").read_text().replace("trusted-public-keys =\n", "")
    (lab.root / "etc" / "nix.conf").write_text(text)
    configure(lab, f"trusted-public-keys = {OTHER}", f"extra-trusted-public-keys = {UPSTREAM}", name="more.conf")
    configure(lab, *lines)
    told = json.loads(lab.nix("show-config", "--json"))
    settings = importing.read_settings(lab.root / "etc" / "nix.conf")
    assert {str(key) for key in importing.trusted_keys(settings)} == set(told["trusted-public-keys"]["value"])
    assert (settings.get("require-sigs") != ["false"]) == told["require-sigs"]["value"]


async def test_a_key_that_is_missing_there_is_named_with_what_to_do(daemon: Lab) -> None:
    [(check, verdict, what)] = bad(await findings(daemon))
    assert (check, verdict) == ("import", "warning")
    assert what == "the nix-daemon trusts no key of up: only its content-addressed paths are imported"
    [found] = await findings(daemon)
    assert found.remedy == (
        f"add {UPSTREAM} to trusted-public-keys in {daemon.root}/etc/nix.conf, and restart the nix-daemon"
    )


async def test_a_key_of_the_upstream_or_ours_is_enough(daemon: Lab) -> None:
    configure(daemon, f"extra-trusted-public-keys = {UPSTREAM}")
    assert bad(await findings(daemon)) == []
    configure(daemon, f"trusted-public-keys = {OURS}", "extra-trusted-public-keys =")
    assert bad(await findings(daemon, OURS)) == []


async def test_without_signatures_all_is_taken(daemon: Lab) -> None:
    configure(daemon, "require-sigs = false")
    assert bad(await findings(daemon)) == []


async def test_a_file_that_is_included_and_not_there_is_told(daemon: Lab) -> None:
    configure(daemon, "include nowhere.conf")
    [(_, verdict, what)] = bad(await findings(daemon))
    assert verdict == "warning"
    assert "cannot be read" in what


async def test_without_a_daemon_nothing_is_imported(lab: Lab) -> None:
    [(_, _, what)] = bad(await findings(lab, nix_db_path=str(lab.database)))
    assert "nothing is imported" in what


async def test_who_does_not_want_it_hears_nothing_of_it(lab: Lab, tmp_path: Path) -> None:
    assert tmp_path
    assert await findings(lab, mirror={}) == []
    assert await findings(lab, upstream=[]) == []
