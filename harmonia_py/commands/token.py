"""`harmonia-py token`: tokens of the catalog, made, listed, revoked."""

import argparse
import json
import sys
from typing import Any

from harmonia_py.cache.access import Action, CachePattern
from harmonia_py.catalog.access import TokenRow
from harmonia_py.catalog.caches import Timestamp, iso
from harmonia_py.catalog.paging import all_of
from harmonia_py.catalog.tokens import new_token
from harmonia_py.commands.shared.catalog import entry, in_catalog, now, seconds_of
from harmonia_py.commands.shared.options import add_config, add_json_lines, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.config.settings import Config
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError, FormatError


def add_arguments(parser: Parser) -> None:
    """The commands, each with the token."""
    parser.describe(
        """
        Tokens say who may do what with which caches. They are made here and take effect at once, also in a server that
        runs. A client sends one as the password in its netrc, or as `Authorization: Bearer TOKEN`.""",
        ("harmonia-py token create laptop --cache team --allow read", "for a machine that reads the cache team"),
        ("harmonia-py token create ci --cache 'team-*' --allow read,push --expires 90d", "for a CI that pushes"),
        ("harmonia-py token list", "which there are, and when each was last used"),
        ("harmonia-py token revoke ci", "closed at the next request, in every worker"),
        (
            "harmonia-py token revoke --holder 'github identity repo:example/widgets:ref:refs/heads/main'",
            "all that an issuer's identity was given for its own tokens",
        ),
    )
    verbs = parser.add_actions()
    create = verbs.add_parser("create", help="make a token and print it, this one time")
    create.add_argument("name", metavar="NAME", help="whose it is, for people: laptop")
    create.add_argument(
        "--cache",
        metavar="PATTERN",
        action="append",
        required=True,
        help="for which caches: a name, in which * stands for any characters; may be repeated",
    )
    create.add_argument(
        "--allow",
        metavar="ACTIONS",
        default="read",
        help=f"what it allows, separated by commas: {', '.join(Action)}; read unless given",
    )
    create.add_argument(
        "--expires", metavar="TIME", default="90d", help="how long it lasts: 90d unless given; 12h, 2w, 1y, never"
    )
    listing = verbs.add_parser("list", help="show the tokens: never their secrets, which are not kept")
    add_json_lines(listing)
    revoke = verbs.add_parser("revoke", help="let a token open nothing any more")
    which = revoke.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="whose it is")
    which.add_argument(
        "--holder",
        metavar="HOLDER",
        help="all good tokens that this identity, as `list` shows it, was given in exchange for its own",
    )
    for verb in (create, listing, revoke):
        add_config(verb)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    config = load(options)
    {"create": _create, "list": _list, "revoke": _revoke}[options.action](options, config)


def _create(options: argparse.Namespace, config: Config) -> None:
    actions = [Action.parse(word) for word in options.allow.split(",")]
    patterns = [CachePattern.parse(pattern) for pattern in options.cache]
    token, row = new_token(options.name, actions, patterns, now=now(), expires=_end(options.expires))
    told = entry("token.create", subject=row.name, id=row.id, allow=options.allow, caches=patterns, expires=row.expires)

    async def create(catalog: SqlCatalog) -> None:
        await catalog.access.add(row)
        await catalog.audit.note([told])

    in_catalog(config, create, make=True)
    print("the token; this is the only time that it is shown:", file=sys.stderr)
    print(token)


def _list(options: argparse.Namespace, config: Config) -> None:
    rows = in_catalog(config, lambda catalog: all_of(catalog.access.page, lambda row: row.id))
    rows.sort(key=lambda row: (row.name, row.created))
    if options.json:
        for row in rows:
            print(json.dumps(_fields(row)))
        return
    for row in rows:
        fields = _fields(row)
        state = f"revoked {fields['revoked']}" if row.revoked else f"until {fields['expires'] or 'it is revoked'}"
        used = fields["used"] or "never"
        whose = "" if row.holder is None else f", of {row.holder}"
        print(f"{row.name}: {_allowed(row)}, {state}, last used {used}{whose}")


def _allowed(row: TokenRow) -> str:
    """`push,read on team-*,other; read on base`."""
    allowed: dict[str, list[str]] = {}
    for grant in row.all_grants:
        allowed.setdefault(",".join(sorted(grant.actions)), []).append(grant.caches)
    return "; ".join(f"{actions} on {','.join(patterns)}" for actions, patterns in allowed.items())


def _revoke(options: argparse.Namespace, config: Config) -> None:
    async def revoke(catalog: SqlCatalog) -> int:
        if options.holder is None:
            count: int = await catalog.access.revoke(options.name, now=now())
            told = entry("token.revoke", subject=options.name)
        else:
            count = await catalog.access.revoke(options.holder, now=now(), of_holder=True)
            told = entry("token.revoke", subject=options.holder, tokens=count)
        if count:
            await catalog.audit.note([told])
        return count

    count = in_catalog(config, revoke)
    if not count:
        what = f"token {options.name}" if options.holder is None else f"token of {options.holder}"
        raise ConfigError(f"there is no {what} that could be revoked; `token list` shows which there are")
    if options.holder is not None:
        print(f"revoked {count}", file=sys.stderr)


def _end(text: str) -> Timestamp | None:
    if text == "never":
        return None
    try:
        return Timestamp(now() + seconds_of("--expires", text))
    except FormatError as error:
        raise FormatError(f"{error}, or never") from None


def _fields(row: TokenRow) -> dict[str, Any]:
    times = {name: getattr(row, name) for name in ("created", "expires", "used", "revoked")}
    return {
        "name": row.name,
        "id": row.id,
        "allow": sorted(row.actions),
        "caches": list(row.patterns),
        "holder": row.holder,
        "grants": [{"allow": sorted(grant.actions), "caches": grant.caches} for grant in row.all_grants],
        **{name: iso(at) for name, at in times.items()},
    }
