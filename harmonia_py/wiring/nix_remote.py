"""The store that a user's Nix works with, by `NIX_REMOTE` and its kin, for commands that push."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from harmonia_py.errors import ConfigError

# https://nix.dev/manual/nix/latest/command-ref/env-common
_VARIABLES: Final = {"NIX_STORE_DIR": "virtual_nix_store", "NIX_DAEMON_SOCKET_PATH": "daemon_socket"}
# Without a path, `choose_store` finds the daemon, or the database where there is none.
_OF_THIS_MACHINE: Final = frozenset({"", "auto", "daemon", "local"})


def store_settings(environment: Mapping[str, str]) -> Mapping[str, Any]:
    """The settings that lead to the store that Nix would use.

    Source: `openStore` in `src/libstore/store-api.cc` of Nix: `unix://SOCKET`, `local`, or the root of a chroot store,
    each of the first two with `?root=DIRECTORY`.

    Raises:
        ConfigError: it is a store elsewhere.
    """
    settings: dict[str, Any] = {key: environment[name] for name, key in _VARIABLES.items() if environment.get(name)}
    remote = environment.get("NIX_REMOTE", "")
    place, _, query = remote.partition("?")
    root = parse_qs(query).get("root", [""])[0]
    if place.startswith("/"):
        place, root = "local", place
    if place.startswith("unix://"):
        settings["daemon_socket"] = urlsplit(place).path or settings.get("daemon_socket", "")
    elif place not in _OF_THIS_MACHINE:
        raise ConfigError(f"NIX_REMOTE={remote}: only what is in a store of this machine can be pushed from it")
    if root:
        settings["real_nix_store"] = f"{root}/nix/store"
        if not place.startswith("unix://"):  # the daemon of the machine is one of another store
            settings["nix_db_path"] = f"{root}/nix/var/nix/db/db.sqlite"
    return {key: value for key, value in settings.items() if value}
