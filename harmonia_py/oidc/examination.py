"""The examination of a token for people who write rules: the grants of its claims, apart from whether it is good."""

import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from harmonia_py.cache.access import Grant
from harmonia_py.cache.identity import IdentityRule, shown_text
from harmonia_py.errors import FormatError, NotAuthenticated, UpstreamError
from harmonia_py.oidc.tokens import IdTokens, claims_without_trust


class RuleResult(Struct, frozen=True):
    """One rule applied to a token.

    Attributes:
        unmet: the first claim that does not match; None when all do.
        value: of the token for it; None when it has none.
        wants: the values that the rule wants of it.
        grants: of the rule.
    """

    unmet: str | None
    value: str | None
    wants: str
    grants: tuple[Grant, ...]


class Examination(Struct, frozen=True):
    """The result of an examination.

    Attributes:
        issuer: the name under which the issuer is configured.
        subject: whom the token names.
        fault: why it is not taken; None when it is good.
        rules: each of the issuer's rules applied to its claims, whether it is good or not.
    """

    issuer: str
    subject: str
    fault: str | None
    rules: tuple[RuleResult, ...]

    @property
    def grants(self) -> tuple[Grant, ...]:
        """The grants of the rules that match, once it is good."""
        return tuple(grant for rule in self.rules if rule.unmet is None for grant in rule.grants)


async def examine_token(tokens: IdTokens, text: str) -> Examination:
    """The examination of `text` by `tokens`.

    Raises:
        FormatError: it is no token of an issuer that is configured.
    """
    trusted = tokens.said_issuer(text)
    if trusted is None:
        raise FormatError("this is no token of an issuer that is configured")
    claims = claims_without_trust(text)
    try:
        fault = None if await tokens.principal(text) is not None else "no key of the issuer has signed it"
    except (NotAuthenticated, UpstreamError) as error:
        fault = str(error).removeprefix("Unauthorized: ")
    rules = tuple(_result(rule, claims) for rule in trusted.rules)
    return Examination(trusted.name, shown_text(str(claims.get("sub", ""))), fault, rules)


def _result(rule: IdentityRule, claims: Mapping[str, Any]) -> RuleResult:
    unmet = rule.unmet(claims)
    if unmet is None:
        return RuleResult(None, None, "", rule.grants)
    value = claims.get(unmet)
    shown = None if value is None else shown_text(value if isinstance(value, str) else json.dumps(value))
    return RuleResult(unmet, shown, " or ".join(rule.claims[unmet]), rule.grants)
