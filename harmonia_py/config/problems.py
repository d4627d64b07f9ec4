"""All errors in the values of a configuration, not only the first."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from harmonia_py.config.cache_table import Cache
from harmonia_py.config.oidc_table import Oidc
from harmonia_py.config.settings import Config

Place = tuple[str | int, ...]

_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")
# What a check of several values says of one of them, and how msgspec says that one is missing.
_NAMED: Final = re.compile(r"(\w+): (.*)", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")
_NO_CHOICE: Final = re.compile(r"Invalid enum value '(.*)'", re.DOTALL)
_NEEDED_BY_UPSTREAMS: Final = {"url", "public_keys"}


class Problem(Struct, frozen=True):
    """One thing that is wrong.

    Attributes:
        place: the keys that lead to it, and numbers in lists: `("upstream", 0, "url")`.
        what: what is wrong with it.
    """

    place: Place
    what: str

    def __str__(self) -> str:
        text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.place)
        return f"{text.lstrip('.') or 'configuration'}: {self.what}"


def problems_of(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """The values that msgspec refuses, in its order."""
    rest = copy.deepcopy(dict(settings))
    if isinstance(rest.get("caches"), dict):
        # By themselves: msgspec says nothing of the name of a table among others.
        for name, table in rest["caches"].items():
            for problem in _problems(table, Cache):
                yield Problem(("caches", name, *problem.place), problem.what)
            if not isinstance(table, dict):
                rest["caches"][name] = {}
    if isinstance(rest.get("oidc"), dict):
        for name, table in list(rest["oidc"].items()):
            # One of each table: without what is wrong, which it needs, that would be missing.
            for problem in islice(_problems(table, Oidc), 1):
                yield Problem(("oidc", name, *problem.place), problem.what)
                del rest["oidc"][name]
    yield from _problems(rest, Config)


def _problems(rest: Any, kind: type[msgspec.Struct]) -> Iterator[Problem]:
    """Msgspec stops at the first problem, which is taken away from `rest` before that is tried again."""
    while True:
        try:
            msgspec.convert(rest, kind)
        except msgspec.ValidationError as error:
            problem = _parse(str(error), kind)
            yield problem
            if not _take_away(rest, problem.place):
                return
        else:
            return


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing when nothing known is like `word`."""
    import difflib  # noqa: PLC0415  # for a mistake alone

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""


def _parse(message: str, table: type[msgspec.Struct]) -> Problem:
    """Msgspec's `what - at `$.key``."""
    what, _, path = message.partition(" - at `$")
    place: Place = tuple(key or int(number) for key, number in _STEP.findall(path))
    if (found := _NAMED.fullmatch(what)) is not None:
        return Problem((*place, found[1]), found[2])
    if (found := _MISSING.fullmatch(what)) is not None:
        return Problem((*place, found[1]), "is missing")
    if (found := _NO_CHOICE.fullmatch(what)) is not None:
        choices = list(_choices(place, table))
        listed = ", ".join(f'"{one}"' for one in choices)
        what = f'"{found[1]}" is none of {listed}{suggest(found[1], choices)}'
    # TOML has no null: what may be unset is left out.
    return Problem(place, f"{what[0].lower()}{what[1:]}".replace(" | null`", "`"))


def _choices(place: Place, table: type[msgspec.Struct]) -> Iterator[str]:
    """The values that a setting may have."""
    kind: Any = msgspec.inspect.type_info(table)
    for step in place:
        if isinstance(kind, msgspec.inspect.ListType):
            kind = kind.item_type
        elif isinstance(kind, msgspec.inspect.StructType):
            kind = next(field.type for field in kind.fields if field.encode_name == step)
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    for one in kinds:
        if isinstance(one, msgspec.inspect.LiteralType):
            yield from map(str, one.values)


def _take_away(settings: dict[str, Any], place: Place) -> bool:
    """Remove the value at `place`, or the table that it is missing in; whether there was one."""
    around: list[tuple[Any, str | int]] = []
    value: Any = settings
    for step in place:
        if not isinstance(step, int) and step not in value:
            break
        around.append((value, step))
        value = value[step]
    while around:
        container, step = around.pop()
        if isinstance(container, dict):
            del container[step]
            if step in _NEEDED_BY_UPSTREAMS and around:
                container |= _harmless(around[-1][1])
            return True
        if isinstance(container[step], dict):
            container[step] = _harmless(step)
            return True
    return False


def _harmless(number: str | int) -> dict[str, Any]:
    """The substitute for a wrong upstream: those behind it keep their numbers, and no two have one name."""
    return {"url": "https://cache.nixos.org", "name": f"#{number}"}
