"""`harmonia-py oidc check`: the permissions of a CI job's token, and why it has no more."""

import argparse
import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from harmonia_py.cache.access import Grant
from harmonia_py.commands.shared.options import add_config, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.errors import ConfigError

if TYPE_CHECKING:  # it needs PyJWT
    from harmonia_py.oidc.examination import Examination


def add_arguments(parser: Parser) -> None:
    """The arguments: the token."""
    parser.describe(
        """
        Issuers of identities, such as CI services, are configured by the tables [oidc.NAME]. `check` takes a token of
        one and says whether this machine would take it: whether its signature is good, which rules let it in, what it
        may then do, and which claim keeps it out of the others. The issuer is asked for its keys, as the server does.
        For a token without a good signature, it says what rules would do if there were one. Exit status 1: it is let
        in nowhere.""",
        ("harmonia-py oidc check job.token", "a token in a file"),
        ("harmonia-py oidc check - --config harmonia.toml", "from standard input, by another configuration"),
    )
    verbs = parser.add_actions()
    check = verbs.add_parser("check", help="say what a token would be allowed")
    check.add_argument("token", metavar="FROM", help="where the token is: env:NAME, a file, or - for standard input")
    check.add_argument("--json", action="store_true", help="one object, for scripts")
    add_config(check)


def run(options: argparse.Namespace) -> int:
    """Look at it; exit status 1 when it opens nothing."""
    config = load(options)
    if not config.oidc:
        raise ConfigError("there is no [oidc.NAME] in the configuration: no token of a CI is taken")
    from harmonia_py.client.id_token import read_token  # noqa: PLC0415  # it makes requests
    from harmonia_py.wiring.oidc import examine  # noqa: PLC0415  # it needs PyJWT

    found = asyncio.run(examine(config, read_token(options.token, os.environ)))
    if options.json:
        print(json.dumps(_fields(found), indent=2))
    else:
        for line in _lines(found):
            print(line)
    return 0 if found.fault is None and found.grants else 1


def _fields(found: "Examination") -> dict[str, Any]:
    return {
        "issuer": found.issuer,
        "subject": found.subject,
        "fault": found.fault,
        "rules": [
            {"rule": number, "unmet_claim": rule.unmet, "value": rule.value, "grants": _grants(rule.grants)}
            for number, rule in enumerate(found.rules, 1)
        ],
        "grants": _grants(found.grants) if found.fault is None else [],
    }


def _grants(grants: tuple[Grant, ...]) -> list[dict[str, Any]]:
    return [{"allow": sorted(grant.actions), "caches": str(grant.caches)} for grant in grants]


def _lines(found: "Examination") -> list[str]:
    would = "lets it in" if found.fault is None else "would let it in"
    lines = [f"issuer: {found.issuer}", f"subject: {found.subject}"]
    lines.append("signature, audience and times: good" if found.fault is None else f"not taken: {found.fault}")
    for number, rule in enumerate(found.rules, 1):
        if rule.unmet is None:
            allowed = ", ".join(f"{','.join(sorted(grant.actions))} on {grant.caches}" for grant in rule.grants)
            lines.append(f"rule {number}: {would}: {allowed}")
        else:
            value = "is not there" if rule.value is None else f"is {rule.value!r}"
            lines.append(f"rule {number}: does not: the claim {rule.unmet} {value}, and it wants {rule.wants}")
    return lines
