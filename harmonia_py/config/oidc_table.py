"""`[oidc.NAME]`: an issuer of identities, such as a CI service, and what its tokens may do here."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from harmonia_py.cache.access import grants_of
from harmonia_py.cache.identity import ClaimPattern, IdentityRule
from harmonia_py.config.units import Seconds, parse_duration
from harmonia_py.errors import naming

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)
_MIN_SECONDS: Final = 3600
_MAX_SECONDS: Final = 12 * 3600
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_REPOSITORY: Final = ("repository", "repository_id", "repository_owner", "repository_owner_id", "sub")
# Anybody can have these sign a token with any audience. So a rule has to say whose, by one of these claims. That of a
# workflow, `job_workflow_ref`, is none: a public one is called by any repository.
_OPEN_TO_ALL: Final = {
    "https://token.actions.githubusercontent.com": (*_REPOSITORY, "enterprise", "enterprise_id"),
    "https://codeberg.org/api/actions": _REPOSITORY,
    "https://gitlab.com": ("project_path", "project_id", "namespace_path", "namespace_id", "sub"),
}
_WHOSE: Final = re.compile(r"[^*/:]+(?:/.*)?", re.ASCII | re.DOTALL)
# `sub` is made of claims, and GitHub lets a repository choose which: `ref:refs/heads/main` is of all the world.
_WHOSE_SUBJECT: Final = re.compile(
    r"(?:repo|repository|repository_id|repository_owner|repository_owner_id|project_path|enterprise|enterprise_id):"
    r"[^*/:]+(?:[/:].*)?",
    re.ASCII | re.DOTALL,
)


class OidcRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[oidc.NAME.rules]]` table: which tokens it lets in, and what those may do. What several allow adds up.

    Attributes:
        claims: each must have a value that is one of these; `*` stands for any characters but `/` and `:`.
        caches: on which caches: names, in which * stands for any characters.
        allow: what: read, push, delete, pin, configure, retention, create, destroy or admin.
        expires: how long a token lasts that such a token is exchanged for, in seconds or as "2 hours": 1 to 12 hours.
    """

    claims: dict[str, str | list[str]]
    caches: list[str]
    allow: list[str]
    expires: int | str = "1 hour"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.claims or not all(self.claims.values()):
            raise ValueError("claims: is empty, so it would let in every token of the issuer")
        for key in ("caches", "allow"):
            if not getattr(self, key):
                raise ValueError(f"{key}: is empty, so it allows nothing")
        with naming("caches", ValueError):
            grants_of(["read"], self.caches)
        with naming("allow", ValueError):
            grants_of(self.allow, [])
        if not _MIN_SECONDS <= parse_duration("expires", self.expires) <= _MAX_SECONDS:
            raise ValueError(f'expires: not between 1 and 12 hours: {self.expires!r}; write "2 hours"')

    @property
    def values(self) -> Mapping[str, tuple[str, ...]]:
        """`claims`, with a list for each."""
        return {name: (one,) if isinstance(one, str) else tuple(one) for name, one in self.claims.items()}

    @property
    def rule(self) -> IdentityRule:
        """The table as a value."""
        return IdentityRule(
            claims={name: tuple(map(ClaimPattern, values)) for name, values in self.values.items()},
            grants=grants_of(self.allow, self.caches),
            seconds=parse_duration("expires", self.expires),
        )


class Oidc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[oidc.NAME]` table: an issuer of identities, such as a CI service, whose tokens are taken as they are.

    Attributes:
        issuer: its URL, as its tokens name it: https://token.actions.githubusercontent.com, https://gitlab.com.
        audience: which its tokens must be made for: the URL of this server, or any other text that is only its.
        rules: what its tokens may do; what no rule allows is refused.
        connect_timeout: seconds until a connection to it stands.
        ca_file: the certificates, in PEM form, that vouch for its own.
        local_network: whether it is inside this network, and may lead to private addresses; unset means that its host
            tells, as for upstreams.
    """

    issuer: str
    audience: str
    rules: list[OidcRule] = []
    connect_timeout: Seconds = 5.0
    ca_file: str | None = None
    local_network: bool | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _check_issuer(self.issuer)
        if not self.audience.strip():
            raise ValueError("audience: is empty; name one, so that tokens for other services are not taken")
        if not self.rules:
            raise ValueError("rules: is missing; without one no token is let in")
        needed = _OPEN_TO_ALL.get(self.issuer.rstrip("/"), ())
        for number, rule in enumerate(self.rules, 1):
            if needed and not any(_says_whose(claim, rule.values.get(claim, ())) for claim in needed):
                raise ValueError(
                    f"rules: rule {number} lets in tokens of anybody at {self.issuer}: say whose, with one of the "
                    f"claims {', '.join(needed)}"
                )


def _check_issuer(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"issuer: {error}: {url!r}") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"issuer: not the URL of an issuer: {url!r}; write https://gitlab.com")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise ValueError("issuer: its keys come without TLS, so anybody on the way could put in others; use https")


def _says_whose(claim: str, values: tuple[str, ...]) -> bool:
    """Whether each of these begins with a name that is spelt out, in `sub` behind `repo:` or its like."""
    pattern = _WHOSE_SUBJECT if claim == "sub" else _WHOSE
    return bool(values) and all(pattern.fullmatch(value) for value in values)


def check_oidc(tables: Mapping[str, Oidc]) -> None:
    """Check the names of issuers, and that no two are one.

    Raises:
        ValueError: a name that is none, or two tables of one issuer.
    """
    seen: dict[str, str] = {}
    for name, table in tables.items():
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"oidc: {name}: a name has 1 to 32 letters, digits and _-")
        other = seen.setdefault(table.issuer.rstrip("/"), name)
        if other != name:
            raise ValueError(f"oidc: {name}: issuer: is that of [oidc.{other}]; put the rules of both into one table")
