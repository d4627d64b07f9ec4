"""Access: principals, the actions that they are allowed, and the caches on which they are.

A request has one principal, also when it carries no credential. What a principal may do is data: actions, and patterns
of the names of caches. Code asks `Principal.may`, never which token it was.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from math import inf
from typing import Final, Protocol, Self

from msgspec import Struct, field

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.errors import FormatError

_PATTERN: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9_+*-]{0,99}", re.ASCII)
_WORD_BYTES: Final = 8
# No generation has this number: what is decided while access is changing is not remembered.
_NEVER: Final = -1


def may_look_into(*, public: bool, other_public: bool) -> bool:
    """Whether a cache may give out what another one has: one that everybody may read, only from such a one."""
    return other_public or not public


class Action(StrEnum):
    """The actions on a cache. `admin` is all of them.

    `delete` is for paths in it and `destroy` for the cache; `retention` is for how long it keeps unused paths, and
    `configure` for its other settings.
    """

    READ = "read"
    PUSH = "push"
    DELETE = "delete"
    PIN = "pin"
    CONFIGURE = "configure"
    RETENTION = "retention"
    CREATE = "create"
    DESTROY = "destroy"
    ADMIN = "admin"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one action.

        Raises:
            FormatError: it is none.
        """
        try:
            return cls(text)
        except ValueError:
            raise FormatError(f"{text} is not one of {', '.join(cls)}") from None


class CachePattern(str):
    """Names of caches: a name, in which `*` stands for any characters, also none."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern.

        Raises:
            FormatError: characters that no name of a cache has, or more than 100.
        """
        if _PATTERN.fullmatch(text) is None:
            raise FormatError("not a pattern of names of caches: letters, digits and _+-, and * for any of them")
        return cls(text)

    def matches(self, name: CacheName) -> bool:
        """Whether `name` is one of these. It takes time proportional to both lengths, whatever the pattern is."""
        return matches_glob(self, name)


def matches_glob(pattern: str, text: str) -> bool:
    """Whether `text` is `pattern`, in which `*` stands for any characters, also none.

    It takes time proportional to both lengths, whatever the pattern is.
    """
    first, *others = pattern.split("*")
    if not others:
        return text == first
    *middle, last = others
    if not text.startswith(first) or not text[len(first) :].endswith(last):
        return False
    rest = text[len(first) : len(text) - len(last)]
    for part in filter(None, middle):
        _, found, rest = rest.partition(part)
        if not found:
            return False
    return True


class Grant(Struct, frozen=True):
    """Actions that are allowed on some caches."""

    actions: frozenset[Action]
    caches: CachePattern

    def allows(self, action: Action, name: CacheName) -> bool:
        """Whether `action` on the cache `name` is part of it."""
        return (action in self.actions or Action.ADMIN in self.actions) and self.caches.matches(name)


class Principal(Struct, frozen=True):
    """Whose request it is.

    Attributes:
        name: for people, in logs and refusals: `anonymous`, `token laptop`.
        grants: of actions; a public cache can be read without any.
        expires: when it ends to be one, in seconds since the epoch.
        token_id: of the token that it showed, where uses are counted.
        fault: an error of the credential, in words for its holder: it may do as little as without one.
        lacks: why it may not do more, for its holder.
    """

    name: str
    grants: tuple[Grant, ...] = ()
    expires: float = inf
    token_id: str | None = None
    fault: str | None = None
    lacks: str | None = None

    def may(self, action: Action, name: CacheName) -> bool:
        """Whether it may do `action` on the cache `name`."""
        return any(grant.allows(action, name) for grant in self.grants)

    def may_anything(self, name: CacheName) -> bool:
        """Whether it may do something with the cache `name`: then it may know whether there is one."""
        return any(self.may(action, name) for action in Action)


ANONYMOUS: Final = Principal("anonymous")
"""The principal of a request without a credential."""


class Authenticator(Protocol):
    """Knows the principals of one kind of credential."""

    def takes(self, token: str) -> bool:
        """Whether `token` has the shape of this kind of token: then it is wrong unless `principal` knows it."""

    async def principal(self, token: str) -> Principal | None:
        """The principal of a token; None when it is none of this kind.

        Raises:
            NotAuthenticated: it was one of these, and is expired or revoked; its holder may read the message.
        """


class Generation(Struct):
    """A number that changes whenever something that was allowed may be allowed no longer.

    What was decided under another number is decided again. The number may be in memory that processes share: a token
    that one of them revokes is closed at the next request to any other. It is odd while a change is under way, and
    stays odd if the process that makes the change dies: decisions hold for one request then.

    Attributes:
        cells: the number, as the only element. Looking at it costs some thirty nanoseconds.
        seen: the number under which this process has decided what it remembers.
    """

    cells: "memoryview[int]" = field(default_factory=lambda: memoryview(bytearray(_WORD_BYTES)).cast("Q"))
    seen: int = _NEVER

    def has_changed(self) -> bool:
        """Whether it is another one than at the last call: then what was decided before is to be forgotten."""
        now = self.cells[0]
        if now == self.seen:
            return False
        self.seen = now if now % 2 == 0 else _NEVER
        return True


def grants_of(actions: Iterable[str], patterns: Iterable[str]) -> tuple[Grant, ...]:
    """Every action on every cache that matches one of `patterns`.

    Raises:
        FormatError: something that is no action, or no pattern.
    """
    allowed = frozenset(Action.parse(action) for action in actions)
    return tuple(Grant(allowed, CachePattern.parse(pattern)) for pattern in patterns)
