"""`Access` over a database."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from harmonia_py.cache.access import Action, CachePattern, Grant
from harmonia_py.catalog import access
from harmonia_py.catalog.access import TokenExists, TokenRow, TooManyTokens
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_as, ask_many, ask_number, ask_one

_COLUMNS: Final = "id, name, secret_hash, actions, patterns, created_s, expires_s, used_s, revoked_s, holder, grants"
_FIND: Final = f"select {_COLUMNS} from tokens where id = $1"
_PAGE: Final = f"select {_COLUMNS} from tokens where id > $1 order by id limit $2"
_NAMED: Final = "select id from tokens where name = $1 and revoked_s is null"
_ADD: Final = f"insert into tokens ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
# Their holders are told for a day that they expired.
_KEPT_EXPIRED_SECONDS: Final = 86_400
_SWEEP: Final = (
    "delete from tokens where id in (select id from tokens where holder is not null and expires_s < $1 limit 100)"
)
_OF_HOLDER: Final = "select count(*) from tokens where holder = $1 and expires_s > $2 and revoked_s is null"
_REVOKE: Final = "update tokens set revoked_s = $2 where name = $1 and revoked_s is null returning id"
_REVOKE_HOLDER: Final = (
    "update tokens set revoked_s = $2 where holder = $1 and expires_s > $2 and revoked_s is null returning id"
)
_USED: Final = "update tokens set used_s = $2 where id = $1 and coalesce(used_s, 0) < $2"


class SqlAccess(Transactions):
    """`Access` in rows of the catalog."""

    @reads
    def find(self, token_id: str) -> Transaction[TokenRow | None]:
        """As in `Access`."""
        return ask_as(_row, _FIND, token_id)

    @reads
    def page(self, after: str | None, limit: int) -> Transaction[Sequence[TokenRow]]:
        """As in `Access`."""
        return [_row(row) for row in (yield from ask(_PAGE, after or "", limit))]

    async def add(self, token: TokenRow) -> None:
        """As in `Access`."""

        def add() -> Transaction[None]:
            if (yield from ask_one(_NAMED, token.name)) is not None:
                raise TokenExists(f"there is a token {token.name} already")
            if token.holder is not None:
                yield from _make_room(token.holder, token.created)
            times = (token.created, token.expires, token.used, token.revoked)
            allowed = (_words(token.actions), msgspec.json.encode(token.patterns).decode())
            of_holder = (token.holder, _grants_text(token.grants))
            yield from ask(_ADD, token.id, token.name, token.secret_hash, *allowed, *times, *of_holder)

        # With a token of a CI's job nothing ends, and jobs are many: what is ready for others stays ready.
        topics = (Topic.ACCESS,) if token.holder is None else ()
        await self._database.write(add, *topics)

    @writes(Topic.ACCESS)
    def revoke(self, name: str, *, now: Timestamp, of_holder: bool = False) -> Transaction[int]:
        """As in `Access`."""
        return len((yield from ask(_REVOKE_HOLDER if of_holder else _REVOKE, name, now)))

    @writes()
    def used(self, last_uses: Mapping[str, Timestamp]) -> Transaction[None]:
        """As in `Access`."""
        yield from ask_many(_USED, list(last_uses.items()))


def _row(row: tuple[Any, ...]) -> TokenRow:
    token_id, name, secret_hash, actions, patterns, created, expires, used, revoked, holder, grants = row
    return TokenRow(
        id=token_id,
        name=name,
        secret_hash=bytes(secret_hash),
        actions=_actions(actions),
        patterns=msgspec.json.decode(patterns, type=tuple[str, ...]),
        created=Timestamp(created),
        expires=expires,
        used=used,
        revoked=revoked,
        holder=holder,
        grants=() if grants is None else tuple(_grants(grants)),
    )


def _make_room(holder: str, now: Timestamp) -> Transaction[None]:
    """Sweep out tokens of holders that expired a day ago, and see that this one may have one more."""
    yield from ask(_SWEEP, now - _KEPT_EXPIRED_SECONDS)
    count = yield from ask_number(_OF_HOLDER, holder, now)
    if count >= access.MAX_OF_HOLDER:
        raise TooManyTokens(f"the {holder} has {count} tokens; one more has to wait until some of them expire")


def _words(actions: Iterable[Action]) -> str:
    return " ".join(sorted(action.value for action in actions))


def _actions(words: str) -> frozenset[Action]:
    return frozenset(Action(action) for action in words.split())


def _grants_text(grants: Sequence[Grant]) -> str | None:
    """`[["push read", "main"], …]`; None for none."""
    given = [(_words(grant.actions), str(grant.caches)) for grant in grants]
    return msgspec.json.encode(given).decode() if given else None


def _grants(text: str) -> Iterator[Grant]:
    for words, pattern in msgspec.json.decode(text, type=list[tuple[str, str]]):
        yield Grant(_actions(words), CachePattern(pattern))
