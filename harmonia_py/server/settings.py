"""The settings of a worker: a configuration, with what the files that it names say, and the store that there is."""

import os
from pathlib import Path

from msgspec import Struct

from harmonia_py.cache.access import Authenticator
from harmonia_py.cache.tokens import Tokens
from harmonia_py.catalog.key_encryption import KeyEncryption
from harmonia_py.config import key_files, token_file
from harmonia_py.config.settings import Config
from harmonia_py.nix.signing import SecretKey
from harmonia_py.wiring.attic_tokens import attic_tokens
from harmonia_py.wiring.parts import check_libraries
from harmonia_py.wiring.store_choice import StoreChoice, choose_store


class Settings(Struct, frozen=True):
    """A configuration, and what it says about this machine."""

    config: Config
    secret_keys: list[SecretKey]
    choice: StoreChoice
    tokens: Tokens | None
    key_encryption: KeyEncryption | None
    attic: Authenticator | None


def read_settings(config: Config) -> Settings:
    """Read every file that `config` names, and look for the store. A signing key that is missing is made.

    Raises:
        ConfigError: a file that cannot be read or written, or a library that is not installed.
    """
    if config.upstream:
        from harmonia_py.wiring.upstreams import check_upstreams  # noqa: PLC0415  # see `wiring/parts`

        check_upstreams(config)
    check_libraries(config)
    if config.oidc:
        from harmonia_py.wiring.oidc import check_issuers  # noqa: PLC0415  # as above

        check_issuers(config)
    opened_by = token_file.read_tokens(Path(config.token_file), os.environ) if config.token_file is not None else None
    secret_keys = key_files.read_signing_keys(config, os.environ, make=True)
    key_encryption = key_files.read_key_encryption(config, os.environ)
    attic = attic_tokens(config, os.environ)
    return Settings(config, secret_keys, choose_store(config), opened_by, key_encryption, attic)
