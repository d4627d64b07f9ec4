"""`NIX_REMOTE` and its kin lead to the store that Nix would use."""

import pytest

from harmonia_py.errors import ConfigError
from harmonia_py.wiring.local_paths import store_config


@pytest.mark.parametrize("remote", ["", "auto", "daemon", "local"])
def test_the_store_of_the_machine_is_where_nix_keeps_it(remote: str) -> None:
    config = store_config({"NIX_REMOTE": remote})
    assert (str(config.store_dir), str(config.real_store)) == ("/nix/store", "/nix/store")
    assert config.daemon_socket == "/nix/var/nix/daemon-socket/socket"


def test_variables_name_another_store_and_another_socket() -> None:
    config = store_config({"NIX_STORE_DIR": "/gnu/store", "NIX_DAEMON_SOCKET_PATH": "/run/daemon"})
    assert (str(config.store_dir), config.daemon_socket) == ("/gnu/store", "/run/daemon")


@pytest.mark.parametrize("remote", ["/mnt", "local?root=/mnt"])
def test_a_chroot_store_is_read_by_its_own_database_and_not_through_the_daemon_of_the_machine(remote: str) -> None:
    config = store_config({"NIX_REMOTE": remote})
    assert (str(config.store_dir), str(config.real_store)) == ("/nix/store", "/mnt/nix/store")
    assert config.nix_db_path == "/mnt/nix/var/nix/db/db.sqlite"


def test_a_daemon_of_a_chroot_store_is_asked_at_its_socket() -> None:
    config = store_config({"NIX_REMOTE": "unix:///run/other.socket?root=/mnt"})
    assert (config.daemon_socket, str(config.real_store)) == ("/run/other.socket", "/mnt/nix/store")
    assert config.nix_db_path is None


@pytest.mark.parametrize("remote", ["ssh://builder", "ssh-ng://builder", "https://cache.example.org", "s3://bucket"])
def test_a_store_elsewhere_is_refused_with_its_name(remote: str) -> None:
    with pytest.raises(ConfigError, match=f"NIX_REMOTE={remote}: only what is in a store of this machine"):
        store_config({"NIX_REMOTE": remote})
