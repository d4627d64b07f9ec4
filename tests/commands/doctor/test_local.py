"""This machine: every failure is provoked for real, where that can be done below a directory of the test."""

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import pytest
from faulty_cache import bad, faulty_cache
from lab import Lab
from msgspec.structs import replace
from nobody import NOBODY, as_nobody, as_root
from peer import Peer, hang
from server import Server, settings_of

from harmonia_py.cache.tokens import TokenHash
from harmonia_py.catalog.quota import Limits
from harmonia_py.commands.doctor import daemon, directories, listening, machine, mirrored, signing_keys, token_file
from harmonia_py.commands.doctor.directories import file_system_of
from harmonia_py.commands.doctor.finding import Check, Finding, findings_of, in_thread, shown
from harmonia_py.commands.doctor.local import LocalView
from harmonia_py.config.cache_table import Cache
from harmonia_py.config.file import SYSTEM_FILE
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart

LIMITS: Final = Limits(max_size=None, min_free=0)


def config(**settings: Any) -> Config:
    return msgspec.convert(settings, Config)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that others may enter: those that pytest makes are closed to them."""
    with TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


class TestChecks:
    async def test_one_that_hangs_ends_with_its_time_limit(self) -> None:
        """A dead network mount: the thread stays, the program goes on and can end."""
        check = Check("store", lambda: in_thread(lambda: time.sleep(60) or []), 0.05, "look at mount")  # type: ignore[func-returns-value]
        assert bad(await findings_of(check)) == [("store", "failure", "no answer within 0.05 seconds")]

    async def test_one_that_cannot_tell_is_a_finding(self) -> None:
        async def fail() -> list[Finding]:
            raise PermissionError(errno.EACCES, "Permission denied")

        assert bad(await findings_of(Check("x", fail, 1, "y"))) == [
            ("x", "failure", "cannot be checked: Permission denied")
        ]

    async def test_what_the_configuration_names_and_is_not_there_is_no_fault_of_a_file_system(self) -> None:
        """Without the credentials of its service it told to look for a network file system whose server is away."""

        async def fail() -> list[Finding]:
            raise ConfigError("/run/credentials/x: storage.credentials_file: No such file or directory")

        (finding,) = await findings_of(Check("x", fail, 1, "look at `mount`"))
        assert finding.what.startswith("cannot be checked: /run/credentials/x: ")
        assert "harmonia-py check-config" in str(finding.remedy)

    async def test_what_a_thread_raises_is_raised_here(self) -> None:
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 / 0)

    def test_text_of_others_commands_no_terminal(self) -> None:
        assert shown("a\x1b[31mb\nc\x07" + "d" * 200) == "ab c" + "d" * 115 + "…"


class TestDaemon:
    async def test_one_that_answers(self, daemon_of: Config) -> None:
        (found,) = await daemon.look_at(daemon_of)
        assert bad([found]) == []
        assert found.what.startswith("Nix 2.")

    async def test_no_socket(self, tmp_path: Path) -> None:
        there_is_none = config(daemon_socket=f"{tmp_path}/nowhere", virtual_nix_store=f"{tmp_path}/nix/store")
        assert bad(await daemon.look_at(there_is_none)) == [
            ("nix-daemon", "failure", f"there is no socket at {tmp_path}/nowhere")
        ]

    async def test_no_socket_where_a_table_may_only_say_who_reads_the_store(self, tmp_path: Path) -> None:
        """Doctor found nothing wrong with a private cache of the local store whose every path was 404."""
        nowhere = {"daemon_socket": f"{tmp_path}/nowhere", "virtual_nix_store": f"{tmp_path}/nix/store"}
        nowhere["state_directory"] = str(tmp_path)
        what = f"there is no socket at {tmp_path}/nowhere"
        private = config(**nowhere, caches={"default": Cache(public=False)})
        assert bad(await daemon.look_at(private)) == [
            ("nix-daemon", "warning", f"{what}; only what clients push is served")
        ]
        into_store = config(**nowhere, caches={"default": Cache(into="store")})
        assert bad(await daemon.look_at(into_store)) == [("nix-daemon", "failure", what)]

    async def test_a_database_stands_in_for_a_daemon_that_is_not_there(self, lab: Lab) -> None:
        settings = config(**settings_of(lab))
        assert bad(await daemon.look_at(settings)) == []
        named = config(**settings_of(lab), nix_db_path=str(lab.database))
        assert bad(await daemon.look_at(named)) == []
        nowhere = config(**settings_of(lab), nix_db_path=f"{lab.root}/nowhere")
        assert [one[:2] for one in bad(await daemon.look_at(nowhere))] == [("database", "failure")]

    async def test_a_socket_that_nobody_listens_on(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(f"{tmp_path}/socket")
        found = await daemon.look_at(config(daemon_socket=f"{tmp_path}/socket", virtual_nix_store=f"{tmp_path}/s"))
        assert bad(found) == [("nix-daemon", "failure", f"{tmp_path}/socket: connection refused")]

    async def test_a_file_that_is_no_socket(self, tmp_path: Path) -> None:
        (tmp_path / "socket").touch()
        found = await daemon.look_at(config(daemon_socket=f"{tmp_path}/socket", virtual_nix_store=f"{tmp_path}/s"))
        assert bad(found) == [("nix-daemon", "failure", f"{tmp_path}/socket is no socket")]

    @as_root
    async def test_a_socket_that_we_may_not_connect_to(self, open_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{open_path}/socket")
            listener.listen()
            (open_path / "socket").chmod(0o660)
            settings = config(daemon_socket=f"{open_path}/socket", virtual_nix_store=f"{open_path}/s")
            with as_nobody():
                (found,) = await daemon.look_at(settings)
        assert found.what == f"{open_path}/socket: nobody may not connect: it is srw-rw---- root:root"
        assert found.remedy is not None
        assert "usermod -aG nix-users nobody" in found.remedy

    @as_root
    async def test_a_user_whom_the_daemon_refuses(self, open_path: Path) -> None:
        with Lab(open_path) as lab:
            with (open_path / "etc" / "nix.conf").open("a") as file:
                file.write("allowed-users = root\n")
            lab.start_daemon()
            lab.database.parent.chmod(0o700)
            with as_nobody():
                (found,) = await daemon.look_at(config(**settings_of(lab)))
        assert found.what == f"{lab.socket}: it hangs up on nobody before it says a word"
        assert found.remedy is not None
        assert "allowed-users" in found.remedy

    async def test_somebody_who_is_no_daemon(self, tmp_path: Path) -> None:
        async def talk(_: Any, writer: Any) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with Peer(tmp_path / "socket", talk):
            found = await daemon.look_at(config(daemon_socket=f"{tmp_path}/socket", virtual_nix_store=f"{tmp_path}/s"))
        ((_, verdict, what),) = bad(found)
        assert verdict == "failure"
        assert "this is not a nix-daemon" in what

    async def test_one_that_says_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(daemon, "_CONNECT_SECONDS", 0.2)
        async with Peer(tmp_path / "socket", hang):
            found = await daemon.look_at(config(daemon_socket=f"{tmp_path}/socket", virtual_nix_store=f"{tmp_path}/s"))
        assert [one[:2] for one in bad(found)] == [("nix-daemon", "failure")]


@pytest.fixture
def daemon_of(daemon: Lab) -> Config:
    return config(**settings_of(daemon))


class TestStore:
    async def look(self, settings: Config) -> list[tuple[str, str, str]]:
        view = LocalView(settings, {})
        check = next(one for section in view.sections() for one in section.checks if one.name == "store")
        return bad(await findings_of(check))

    async def test_files_and_metadata_of_one_store(self, daemon_of: Config) -> None:
        assert await self.look(daemon_of) == []

    async def test_files_of_another_store_than_the_daemons(self, daemon_of: Config, tmp_path: Path) -> None:
        (tmp_path / "other" / f"{'1' * 32}-name").mkdir(parents=True)
        found = await self.look(msgspec.structs.replace(daemon_of, real_nix_store=f"{tmp_path}/other"))
        what = f"{tmp_path}/other: of 1 names that are in it, the store's metadata know none"
        assert found == [("store", "failure", what)]

    async def test_a_directory_that_is_not_there(self, daemon_of: Config, tmp_path: Path) -> None:
        found = await self.look(msgspec.structs.replace(daemon_of, real_nix_store=f"{tmp_path}/nowhere"))
        assert found == [("store", "failure", f"{tmp_path}/nowhere: no such file or directory")]

    async def test_where_there_is_no_nix(self, tmp_path: Path) -> None:
        nothing = config(daemon_socket=f"{tmp_path}/s", virtual_nix_store=f"{tmp_path}/nix/store")
        assert [one[:2] for one in await self.look(nothing)] == [("store", "failure")]


class TestKeys:
    def key(self, file: Path, name: str = "cache.example.org-1", mode: int = 0o600) -> Path:
        file.write_text(SecretKey.generate(name).format())
        file.chmod(mode)
        return file

    def look(self, *files: Path, **environment: str) -> list[tuple[str, str, str]]:
        settings = config(sign_key_paths=[str(file) for file in files])
        return bad(signing_keys.look_at(settings, environment))

    def test_one_that_is_right_is_shown_with_its_public_half(self, tmp_path: Path) -> None:
        file = self.key(tmp_path / "key")
        (found,) = signing_keys.judge([signing_keys.read(file, {})])
        assert bad([found]) == []
        assert found.what == f"{file}: {SecretKey.parse(file.read_text()).public_key}"

    def test_one_that_others_may_read(self, tmp_path: Path) -> None:
        file = self.key(tmp_path / "key", mode=0o644)
        ((_, verdict, what),) = self.look(file)
        assert verdict == "warning"
        assert what.startswith(f"{file}: others may read it (-rw-r--r-- ")
        # Nobody else can enter where systemd puts it.
        assert self.look(file, CREDENTIALS_DIRECTORY=str(tmp_path)) == []

    def test_two_of_one_name(self, tmp_path: Path) -> None:
        one, other = self.key(tmp_path / "one"), self.key(tmp_path / "other")
        what = f"{other} and {one} hold different keys of one name, cache.example.org-1"
        assert self.look(one, other) == [("signing key", "failure", what)]
        assert self.look(one, one) == []

    def test_the_name_of_somebody_elses_key(self, tmp_path: Path) -> None:
        ((_, verdict, what),) = self.look(self.key(tmp_path / "key", "cache.nixos.org-1"))
        assert verdict == "failure"
        assert "is the name of cache.nixos.org's key" in what

    def test_the_public_half(self, tmp_path: Path) -> None:
        file = tmp_path / "key.pub"
        file.write_text(str(SecretKey.generate("k-1").public_key))
        assert self.look(file) == [("signing key", "failure", f"{file}: holds a public key")]

    def test_no_key_at_all_in_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_bytes(b"\xff\xfe")
        ((_, verdict, what),) = self.look(tmp_path / "key")
        assert (verdict, what) == ("failure", f"{tmp_path}/key: not a secret key of Nix: it is not text")

    def test_no_file(self, tmp_path: Path) -> None:
        what = f"{tmp_path}/key: no such file or directory"
        assert self.look(tmp_path / "key") == [("signing key", "failure", what)]

    @as_root
    def test_a_file_that_we_may_not_read(self, open_path: Path) -> None:
        file = self.key(open_path / "key")
        with as_nobody():
            found = self.look(file)
        assert found == [("signing key", "failure", f"{file}: permission denied")]

    def test_the_keys_that_are_credentials_of_the_service(self, tmp_path: Path) -> None:
        """After `debian.md` the doctor said of a service with a key of its own that its clients needed another one."""
        service, settings = tmp_path / "harmonia-py.service", config(state_directory=str(tmp_path))
        self.key(tmp_path / "secret-key")
        assert signing_keys.files_of(settings, service) == [tmp_path / "secret-key"]
        service.mkdir()
        (service / "tokens").write_text("# none\n")
        assert signing_keys.files_of(settings, service) == [tmp_path / "secret-key"]
        key = self.key(service / "sign-key", "cache.example.org-2")
        assert signing_keys.files_of(settings, service) == [key]
        named = config(sign_key_paths=[str(tmp_path / "secret-key"), str(key)])
        assert signing_keys.files_of(named, service) == named.key_files
        assert signing_keys.files_of(config(sign=False), service) == []
        view = LocalView(settings, {}, service)
        assert view.public_keys() == [SecretKey.parse(key.read_text()).public_key]
        # `explain` named the key of the first start, which does not sign beside these.
        assert [one.name for one in signing_keys.keys_of(settings, service, {})] == ["cache.example.org-2"]

    def test_the_credentials_of_the_service_are_those_of_its_configuration_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Beside a service with credentials `public-key -c own.toml` printed the key of the service, or refused."""
        assert signing_keys.service_of(tmp_path / "own.toml", {}) is None
        assert signing_keys.service_of(Path("settings.toml"), {}) is None
        assert signing_keys.service_of(SYSTEM_FILE, {"STATE_DIRECTORY": str(tmp_path)}) is None
        monkeypatch.chdir("/etc")
        for file in (SYSTEM_FILE, Path("harmonia-py/settings.toml"), Path("harmonia-py/harmonia.toml")):
            assert signing_keys.service_of(file, {}) == signing_keys.OF_SERVICE

    @as_root
    def test_without_a_file_root_alone_looks_at_the_service(self) -> None:
        assert signing_keys.service_of(None, {}) == signing_keys.OF_SERVICE
        with as_nobody():
            assert signing_keys.service_of(None, {}) is None

    @as_root
    def test_credentials_that_we_may_not_see(self, open_path: Path) -> None:
        service, settings = open_path / "harmonia-py.service", config(state_directory=str(open_path))
        service.mkdir(0o700)
        self.key(service / "sign-key")
        with as_nobody():
            ((_, verdict, what),) = bad(signing_keys.look_at(settings, {}, service))
            assert LocalView(settings, {}, service).public_keys() == []
        assert (verdict, what) == ("warning", f"{service}: only root sees which keys the service signs with")

    def test_a_configuration_that_signs_nothing(self) -> None:
        ((_, verdict, what),) = bad(signing_keys.look_at(config(sign=False), {}))
        assert verdict == "warning"
        assert what.startswith("sign = false: ")

    def test_where_none_is_named_one_is_made_at_the_first_start(self, tmp_path: Path) -> None:
        state = tmp_path / "new" / "state"
        assert bad(signing_keys.look_at(config(state_directory=str(state)), {})) == []
        assert not state.parent.exists()
        (tmp_path / "file").touch()
        found = signing_keys.look_at(config(state_directory=f"{tmp_path}/file/state"), {})
        assert [one[:2] for one in bad(found)] == [("signing key", "failure")]


class TestTokenFile:
    def test_what_is_in_it(self, tmp_path: Path) -> None:
        file = tmp_path / "tokens"
        assert [one[:2] for one in bad(token_file.look_at(file, {}))] == [("token_file", "failure")]
        file.write_text("nonsense")
        file.chmod(0o600)
        assert [one[:2] for one in bad(token_file.look_at(file, {}))] == [("token_file", "failure")]
        file.write_text("# none\n")
        assert [one[:2] for one in bad(token_file.look_at(file, {}))] == [("token_file", "warning")]
        file.write_text(f"{TokenHash.generate('somebody')[1]}\n")
        assert bad(token_file.look_at(file, {})) == []
        file.chmod(0o644)
        assert [one[:2] for one in bad(token_file.look_at(file, {}))] == [("token_file", "warning")]


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(directory)], check=True, timeout=10)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True, timeout=10)


class TestDirectories:
    def look(self, path: Path, limits: Limits = LIMITS) -> list[tuple[str, str, str]]:
        return bad(directories.judge(directories.facts_of("cache.directory", path), limits))

    def test_one_that_can_be_written_and_one_that_can_be_made(self, tmp_path: Path) -> None:
        assert [one for one in self.look(tmp_path) if one[1] == "failure"] == []
        assert [one for one in self.look(tmp_path / "a" / "b") if one[1] == "failure"] == []
        assert list(tmp_path.iterdir()) == []

    @as_root
    def test_one_that_we_may_not_write(self, open_path: Path) -> None:
        with as_nobody():
            ((check, verdict, what),) = self.look(open_path / "cache")
        assert (check, verdict) == ("cache directory", "failure")
        assert f"nobody may not write to {open_path} (drwxr-xr-x root:root)" in what

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        ((_, verdict, what),) = self.look(tmp_path / "file")
        assert verdict == "failure"
        assert what.startswith(f"{tmp_path}/file: {tmp_path}/file is no directory")

    @as_root
    def test_a_full_file_system(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "full", "-o", "size=1m") as directory:
            ((_, verdict, what),) = self.look(directory)
            assert verdict == "failure"
            assert "its file system is full" in what

    @as_root
    def test_a_file_system_with_no_room_for_more_files(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "full", "-o", "size=64m,nr_inodes=2") as directory:
            (directory / "one").touch()
            ((_, verdict, what),) = self.look(directory)
            assert verdict == "failure"
            assert "no room for more files" in what

    @as_root
    def test_a_read_only_file_system(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "ro", "-o", "ro") as directory:
            ((_, verdict, what),) = self.look(directory)
            assert verdict == "failure"
            assert "read-only" in what

    @as_root
    def test_memory_and_limits_that_it_cannot_keep(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "memory", "-o", "size=64m") as directory:
            found = self.look(directory, Limits(max_size=2**40, min_free=2**30))
        assert [verdict for _, verdict, _ in found] == ["warning"] * 3
        assert [what.partition(",")[0] for _, _, what in found] == [
            "67.1 MB free",
            "max_size",
            "tmpfs is memory",
        ]

    async def test_the_directory_of_copies_of_a_bucket(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()

        async def look(name: str) -> Sequence[Finding]:
            storage = {"url": "s3://nix-cache", "hot_max_size": "900000 TiB", "hot_directory": f"{tmp_path}/{name}"}
            view = LocalView(config(storage=storage), {})
            checks = [check for section in view.sections() for check in section.checks]
            return await findings_of(next(check for check in checks if check.name == "storage.hot_directory"))

        (remedy,) = [found.remedy for found in await look("hot") if "hot_max_size" in found.what]
        assert remedy == "min_free of [cache] is what limits it: lower hot_max_size in [storage]"
        ((_, verdict, what),) = bad(await look("file"))
        assert verdict == "failure"
        assert what.endswith("each download is read from the bucket")

    def test_the_file_system_is_told_by_the_last_mount_that_holds_it(self) -> None:
        mounts = (
            "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
            "2 1 0:5 / /var/mÿ\\040cache rw shared:1 - nfs4 host:/x rw\n"
            "3 1 0:6 / /var/mÿ\\040cache/in rw - xfs /dev/sdb rw\n"
            "4 1 0:6 / /var/mÿ\\040cache/in rw - tmpfs none rw\n"
            "nonsense\n"
        )
        assert file_system_of(Path("/var"), mounts) == "ext4"
        assert file_system_of(Path("/var/mÿ cache/x"), mounts) == "nfs4"
        assert file_system_of(Path("/var/mÿ cache/in"), mounts) == "tmpfs"
        assert file_system_of(Path("/"), "") is None

    @pytest.mark.parametrize("kind", ["nfs4", "overlay"])
    def test_a_file_system_that_is_a_bad_place(self, tmp_path: Path, kind: str) -> None:
        facts = replace(directories.facts_of("cache.directory", tmp_path), file_system=kind)
        assert [verdict for _, verdict, _ in bad(directories.judge(facts, LIMITS))] == ["warning"]


class TestAddresses:
    async def look(self, *addresses: str) -> list[tuple[str, str, str]]:
        return bad((await listening.look_at(config(bind=list(addresses)))).findings)

    async def test_one_that_is_free_stays_so(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        assert await self.look(f"127.0.0.1:{port}", f"unix:{tmp_path}/socket") == []
        with pytest.raises(FileNotFoundError):
            os.stat(f"{tmp_path}/socket")  # noqa: PTH116  # nothing was left there
        socket.create_server(("127.0.0.1", port)).close()

    async def test_one_that_is_taken(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(socket.AF_UNIX) as local:
            local.bind(f"{tmp_path}/socket")
            local.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            assert await self.look(address, f"unix:{tmp_path}/socket") == [
                ("address", "failure", f"{address}: taken by another program"),
                ("address", "failure", f"unix:{tmp_path}/socket: taken by another program"),
            ]

    async def test_what_is_left_of_a_socket_is_in_nobodys_way(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(f"{tmp_path}/socket")
        assert await self.look(f"unix:{tmp_path}/socket") == []
        (tmp_path / "file").touch()
        assert [what for _, _, what in await self.look(f"unix:{tmp_path}/file")] == [
            f"unix:{tmp_path}/file: something that is no socket has this name"
        ]

    async def test_an_address_that_this_machine_has_not(self) -> None:
        assert await self.look("192.0.2.1:5000", "x") == [
            ("address", "failure", "192.0.2.1:5000: this machine has no such address"),
            ("address", "failure", "bind: 'x': expected host:port, [IPv6]:port or unix:/path"),
        ]

    def test_a_port_that_needs_rights(self) -> None:
        facts = listening.AddressFacts(text=":80", error=errno.EACCES, version=None, port=80, user="nobody")
        assert bad([listening.judge(facts)]) == [("address", "failure", ":80: nobody may not use ports below 1024")]

    async def test_our_own_server_is_known(self, daemon: Lab, tmp_path: Path) -> None:
        with Server(tmp_path, daemon.env, settings_of(daemon), "--bind", f"unix:{tmp_path}/socket") as server:
            served = await listening.look_at(config(bind=[f"unix:{tmp_path}/socket", f"127.0.0.1:{server.port}"]))
        assert bad(served.findings) == []
        assert all("answers" in one.what for one in served.findings)
        assert served.url == server.url


class TestMachine:
    def test_a_clock_before_the_program_was_installed(self) -> None:
        found = machine.judge_clock(synchronised=True, now=1000.0, newest=1_700_000_000.0)
        assert bad(found) == [
            ("clock", "failure", "it says 1970-01-01 00:16 UTC, which is before this program was installed")
        ]

    def test_a_clock_that_nobody_sets(self) -> None:
        ((_, verdict, _),) = bad(machine.judge_clock(synchronised=False, now=2e9, newest=1e9))
        assert verdict == "warning"
        assert bad(machine.judge_clock(synchronised=None, now=2e9, newest=1e9)) == []

    def test_too_few_files(self) -> None:
        assert bad([machine.judge_descriptors(8192, 8192, 2048)]) == []
        ((_, verdict, what),) = bad([machine.judge_descriptors(1024, 524288, 2048)])
        assert verdict == "warning"
        assert "about 256 downloads" in what

    def test_it_looks_without_asking_for_rights(self) -> None:
        assert {one.check for one in machine.look_at(config())} == {"clock", "open files"}


@asynccontextmanager
async def upstream(**settings: Any) -> AsyncIterator[tuple[Any, HashPart]]:
    async with faulty_cache() as cache:
        table = {"url": cache.url, "public_keys": [str(SecretKey.generate("upstream-1").public_key)]} | settings
        (one,) = config(upstream=[table]).upstream
        yield one, cache.package.hash_part


class TestUpstreams:
    async def look(self, one: Any, *candidates: HashPart) -> list[tuple[str, str, str]]:
        async def given() -> tuple[HashPart, ...]:
            return candidates

        return bad(await mirrored.look_at(one, config().store_dir, given))

    async def test_one_that_signs_with_another_key_than_the_one_trusted(self) -> None:
        async with upstream() as (one, known):
            assert await self.look(one, known) == [("signature", "failure", "the one by upstream-1 is wrong")]
            assert await self.look(one) == []

    async def test_one_that_has_another_store_dir(self) -> None:
        async with upstream() as (one, known):

            async def given() -> tuple[HashPart, ...]:
                return (known,)

            found = await mirrored.look_at(one, config(virtual_nix_store="/gnu/store").store_dir, given)
        assert ("nix-cache-info", "failure") in [one[:2] for one in bad(found)]

    async def test_one_that_is_away(self) -> None:
        async with upstream() as (one, _):
            pass
        assert [found[:2] for found in await self.look(one)] == [("connection", "failure")]

    async def test_a_wrong_key_for_the_official_cache_and_a_file_that_is_missing(self, tmp_path: Path) -> None:
        wrong = str(SecretKey.generate("cache.nixos.org-1").public_key)
        async with upstream(public_keys=[wrong]) as (one, _):
            assert [found[:2] for found in await self.look(one)] == [("public_keys", "failure")]
        async with upstream(token_file=f"{tmp_path}/nowhere") as (one, _):
            assert [found[:2] for found in await self.look(one)] == [("upstream", "failure")]


def test_nothing_of_it_needs_nix_or_rights(open_path: Path) -> None:
    """The whole of it as a user without rights, where there is nothing."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NIX", "XDG"))}
    env |= {"PYTHONPATH": str(Path.cwd()), "HOME": str(open_path), "NIX_STORE_DIR": f"{open_path}/nix/store"}
    env |= {"NIX_DAEMON_SOCKET_PATH": f"{open_path}/socket", "CONFIG_FILE": ""}
    # The tree that the tests run from may be closed to others, so everything is imported before.
    program = f"""
import encodings.idna, os, rich.status
from harmonia_py import cli
from harmonia_py.commands.doctor import examine
from harmonia_py.wiring import storages
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
raise SystemExit(cli.main(["doctor"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd="/", env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    assert done.returncode == 1
    assert f"there is no socket at {open_path}/socket" in done.stdout
    assert "Traceback" not in done.stdout
    assert list(open_path.iterdir()) == []
