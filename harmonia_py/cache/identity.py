"""Identities that an issuer vouches for, and the rules that say what each may do.

An issuer, such as the one of a CI service, signs claims: of which repository a job is, of which branch. A rule lets in
tokens whose claims all match, and what several rules allow adds up.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from harmonia_py.cache.access import Grant, Principal, matches_glob

_SEPARATOR: Final = re.compile(r"([/:])")
# A message for people names so many rules.
_RULES_NAMED: Final = 5
_SHOWN_LENGTH: Final = 100
# Hexadecimal digits, 64 bits: a job that chooses the name of its branch must not find a subject of the same digest.
_DIGEST_LENGTH: Final = 16


class ClaimPattern(str):
    """Values of a claim: a text, in which `*` stands for any characters but `/` and `:`, also none."""

    __slots__ = ()

    def matches(self, value: str) -> bool:
        """Whether `value` is one of these. It takes time proportional to both lengths, whatever the pattern is."""
        wanted, given = _SEPARATOR.split(self), _SEPARATOR.split(value)
        return len(wanted) == len(given) and all(map(matches_glob, wanted, given))


class IdentityRule(Struct, frozen=True):
    """A rule: grants for tokens whose claims match.

    Attributes:
        claims: each must be there, and have a value that matches one of its patterns.
        grants: for matching tokens.
        seconds: for how long a token lasts that such a token is exchanged for.
    """

    claims: Mapping[str, Sequence[ClaimPattern]]
    grants: tuple[Grant, ...]
    seconds: int

    def unmet(self, claims: Mapping[str, Any]) -> str | None:
        """The first of its claims that does not match; None when all do."""
        return next((name for name, patterns in self.claims.items() if not _is_met(patterns, claims.get(name))), None)


class Identity(Principal, frozen=True, kw_only=True):
    """The holder of a token that an issuer has signed.

    Attributes:
        issuer: the name under which the issuer is configured.
        subject: whom the issuer names, made fit to be shown; two subjects differ in it.
        seconds: for how long a token lasts that this one is exchanged for.
    """

    issuer: str
    subject: str
    seconds: int


def identity_of(
    issuer: str, subject: str, claims: Mapping[str, Any], rules: Sequence[IdentityRule], *, expires: float
) -> Identity:
    """The identity behind the claims of a verified token, by `rules`.

    Args:
        issuer: the name under which it is configured.
        subject: the claim `sub`.
        claims: all of them.
        rules: of this issuer, in the order in which they are counted for people.
        expires: when the token ends, in seconds since the epoch.
    """
    unmet = [rule.unmet(claims) for rule in rules]
    met = [rule for rule, claim in zip(rules, unmet, strict=True) if claim is None]
    shown = _principal_text(subject)
    return Identity(
        name=f"{issuer} identity {shown}",
        grants=tuple(dict.fromkeys(grant for rule in met for grant in rule.grants)),
        expires=expires,
        lacks=_lacks(unmet, claims),
        issuer=issuer,
        subject=shown,
        seconds=min((rule.seconds for rule in met), default=0),
    )


def _principal_text(subject: str) -> str:
    """`shown_text` of a subject, with a part of its SHA-256 where that differs: two subjects are two principals."""
    shown = shown_text(subject)
    if shown == subject:
        return shown
    return f"{shown} {hashlib.sha256(subject.encode(errors='surrogatepass')).hexdigest()[:_DIGEST_LENGTH]}"


def shown_text(text: str) -> str:
    """A text of a token for people: at most 255 characters, and none that could end a line or move a cursor."""
    return "".join(c if c.isprintable() else "?" for c in text[:255])


def _is_met(patterns: Sequence[ClaimPattern], value: Any) -> bool:
    """Whether a claim has a value that matches; of a list, one of its values."""
    texts = [_text(one) for one in (value if isinstance(value, list) else [value])]
    return any(pattern.matches(text) for text in texts if text is not None for pattern in patterns)


def _text(value: Any) -> str | None:
    """A claim as rules have it: `true` for a boolean, digits for a whole number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int)) else None


def _lacks(unmet: Sequence[str | None], claims: Mapping[str, Any]) -> str | None:
    """The claims that keep rules from allowing more: each with the token's own value, and not with the rule's."""
    reasons = [
        f"rule {number} does not take its claim {claim}, {_shown(claims[claim])}"
        if claim in claims
        else f"rule {number} wants a claim {claim}, which it has not"
        for number, claim in enumerate(unmet, 1)
        if claim is not None
    ]
    if len(reasons) > _RULES_NAMED:
        reasons[_RULES_NAMED:] = [f"and so for {len(reasons) - _RULES_NAMED} more rules"]
    return "; ".join(reasons) or None


def _shown(value: Any) -> str:
    text = _text(value)
    return "which is no text" if text is None else repr(shown_text(text)[:_SHOWN_LENGTH])
