"""What a newcomer sees: started as it comes, with and without a daemon, and without any Nix."""

import os
import re
from pathlib import Path

from lab import Lab
from server import Server

# Lines that can be copied into nix.conf as they are printed.
NIX_CONF_LINE = re.compile(r"^\s*((?:extra-)?(?:substituters|trusted-public-keys) = \S+)\s*$", re.MULTILINE)


def test_the_printed_lines_make_a_client_substitute(daemon: Lab, tmp_path: Path) -> None:
    with Server(tmp_path, daemon.env) as server:
        server.wait_for(re.compile("trusted-public-keys = .*\n"))
        lines = NIX_CONF_LINE.findall(server.output())
        assert len(lines) == 2, server.output()
        assert daemon.store_dir in server.output()
        client = daemon.client("client")
        client.env["NIX_CONFIG"] = "\n".join([*lines, "max-jobs = 0"])
        client.nix_store("--realise", daemon.full(daemon.closure.top))
        assert client.real(daemon.closure.input0).exists()


def test_the_generated_key_is_private_and_kept(daemon: Lab, tmp_path: Path) -> None:
    printed = []
    for _start in range(2):
        with Server(tmp_path, daemon.env) as server:
            printed.append(server.wait_for(re.compile("trusted-public-keys = (.*)\n")).group(1))
            files = [file for file in (server.root / "state").rglob("*") if file.is_file()]
            assert [file.stat().st_mode & 0o777 for file in files] == [0o600]
    assert printed[0] == printed[1]


def test_a_chroot_store_without_a_daemon_is_served_from_its_database(chroot_lab: Lab, tmp_path: Path) -> None:
    keys = chroot_lab.secret_key("e2e-1")
    settings = {
        "virtual_nix_store": "/nix/store",
        "real_nix_store": str(chroot_lab.real_store),
        "nix_db_path": str(chroot_lab.database),
        "daemon_socket": str(tmp_path / "nobody-listens"),
        "sign_key_paths": [str(keys.secret_file)],
        "workers": 1,
    }
    with Server(tmp_path, chroot_lab.env, settings) as server:
        client = chroot_lab.client("client")
        options = ("--option", "substituters", server.url, "--option", "trusted-public-keys", keys.public)
        client.nix_store("--realise", chroot_lab.full(chroot_lab.closure.top), *options)
        client.nix_store("--verify", "--check-contents")
        assert (client.real(chroot_lab.closure.top) / "foobar").read_text() == "FOOBAR\n"
        assert client.real(chroot_lab.closure.input0).exists()


def test_a_store_without_a_daemon_is_served_without_any_configuration(lab: Lab, tmp_path: Path) -> None:
    with Server(tmp_path, lab.env) as server:
        narinfo = server.get(f"/{lab.closure.top.hash_part}.narinfo")
        assert narinfo.status == 200
        assert f"StorePath: {lab.full(lab.closure.top)}\n" in narinfo.body.decode()
        assert "\nSig: " in narinfo.body.decode()


def test_where_there_is_no_nix_it_says_so_in_one_line_and_answers(tmp_path: Path) -> None:
    nowhere = tmp_path / "nix" / "store"
    env = {name: value for name, value in os.environ.items() if not name.startswith("NIX_")}
    env |= {"NIX_STORE_DIR": str(nowhere), "NIX_DAEMON_SOCKET_PATH": str(tmp_path / "nobody-listens")}
    with Server(tmp_path, env) as server:
        assert server.get("/health").status == 200
        cache_info = server.get("/nix-cache-info")
        assert cache_info.status == 200
        assert f"StoreDir: {nowhere}\n" in cache_info.body.decode()
        # Nix would remember "absent" for an hour; but nothing is more absent than a store that is not there.
        assert server.get(f"/{'0' * 32}.narinfo").status == 404
        complaints = [line for line in server.output().splitlines() if "warn" in line.lower()]
        assert len(complaints) == 1, server.output()
        assert "Traceback" not in server.output()
