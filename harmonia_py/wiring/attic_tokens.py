"""The authenticator of Attic's tokens of a configuration. Without such tokens no module for JWTs is imported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harmonia_py.cache.access import Authenticator
from harmonia_py.config.key_files import read_secret
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError, naming

_VARIABLES: Final = {
    "hs256_secret": "ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64",
    "rs256_secret": "ATTIC_SERVER_TOKEN_RS256_SECRET_BASE64",
    "rs256_public_key": "ATTIC_SERVER_TOKEN_RS256_PUBKEY_BASE64",
}


def attic_tokens(config: Config, environment: Mapping[str, str]) -> Authenticator | None:
    """The authenticator of Attic's tokens; None where its API is off, or no key is named.

    Raises:
        ConfigError: the key cannot be read or is none, two keys are named, or PyJWT is not installed.
    """
    table = config.attic
    if not table.enabled:
        return None
    if table.key_files:
        ((kind, file),) = table.key_files.items()
        setting = f"attic.token_{kind}_file"
        where = f"{file}: {setting}"
        text = read_secret(Path(file), str, environment, setting=setting, kind="this key")
    else:
        given = [kind for kind, variable in _VARIABLES.items() if environment.get(variable)]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(_VARIABLES[kind] for kind in given)}: tokens are verified with one key")
        if not given:
            return None
        (kind,) = given
        where, text = _VARIABLES[kind], environment[_VARIABLES[kind]]
    return _authenticator(config, kind, text, where)


def _authenticator(config: Config, kind: str, text: str, where: str) -> Authenticator:
    try:
        from harmonia_py.attic.token_key import TokenKey  # noqa: PLC0415  # as above
        from harmonia_py.attic.tokens import AtticTokens  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"attic.enabled: tokens of Attic need {error.name}: install harmonia-py[attic]") from None
    table = config.attic
    parse = {
        "hs256_secret": TokenKey.parse_hs256_secret,
        "rs256_secret": TokenKey.parse_rs256_secret,
        "rs256_public_key": TokenKey.parse_rs256_public_key,
    }[kind]
    with naming(where):
        key = parse(text)
    return AtticTokens(key, issuer=table.token_bound_issuer, audiences=table.token_bound_audiences or None)
