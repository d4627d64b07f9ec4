"""Answers to a client that pushes which no server of ours gives: each is an error of one line, and no traceback."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from fault_upstream import STORE_DIR, FaultUpstream, body, package, status

from harmonia_py.client.answers import SessionInfo
from harmonia_py.client.api import PushApi
from harmonia_py.client.http import HttpServer
from harmonia_py.client.promotion import promote
from harmonia_py.errors import UpstreamProtocolError

SESSION: Final = SessionInfo(id="s", store_dir=STORE_DIR, max_paths=100, max_narinfos=100)
ONE: Final = package()
BEGUN: Final = {"session": "s", "cache": {"store_dir": "/nix/store"}}
NO_PIN: Final = "is of a release that sets no pins"

Call = Callable[[PushApi], Awaitable[Any]]
CALLS: Final[dict[str, Call]] = {
    "capabilities": lambda api: api.capabilities(),
    "exchange": lambda api: api.exchange("a.b.c"),
    "cache": lambda api: api.cache(),
    "begin": lambda api: api.begin(),
    "missing": lambda api: api.missing(SESSION, [ONE.hash_part]),
    "offset": lambda api: api.offset(SESSION, "x.nar"),
    "publish": lambda api: api.publish(SESSION, [ONE.narinfo]),
    "finish": lambda api: api.finish(SESSION, [ONE.hash_part]),
    "pin": lambda api: api.finish(SESSION, [ONE.hash_part], {"release": ONE.path_info.store_path}),
}


@pytest.mark.parametrize(
    ("call", "answer", "words"),
    [
        ("capabilities", None, "there is no harmonia-py that takes pushes at http"),
        ("capabilities", [], "is no JSON object"),
        ("exchange", None, "takes no tokens of CIs"),
        ("exchange", {"access_token": "x"}, "lacks 'expires_in'"),
        ("exchange", {"access_token": "x", "expires_in": "soon"}, "is not understood: invalid literal"),
        ("cache", None, "there is no cache of a harmonia-py at http"),
        ("cache", {"name": "team", "public_keys": ["no key"]}, "is not understood: "),
        ("cache", {"public_keys": []}, "lacks 'name'"),
        ("begin", None, "there is no harmonia-py that takes pushes at http"),
        ("begin", BEGUN | {"version": 2}, "wants a newer harmonia-py: upgrade this one"),
        ("begin", {"session": "s"}, "lacks 'cache'"),
        ("begin", BEGUN | {"cache": {"store_dir": "nix"}}, "is not understood: "),
        ("begin", BEGUN | {"uploads": {"min_size": [], "max_size": 1}}, "is not understood: "),
        ("missing", {"missing": ["x"]}, "is not understood: "),
        ("missing", {"missing": [], "nars": ["x"]}, "is not understood: "),
        ("offset", {"offset": "1"}, "does not say how much it has"),
        ("publish", {"paths": []}, "does not say what became of every path"),
        ("publish", {"paths": [{}]}, "lacks 'state'"),
        ("finish", {"missing": ["x"]}, "is not understood: "),
        ("pin", {"missing": []}, NO_PIN),
    ],
)
async def test_an_answer_that_makes_no_sense_is_an_error_of_one_line(call: str, answer: Any, words: str) -> None:
    """A list where a server names NARs ended the push with a traceback."""
    async with FaultUpstream() as upstream, HttpServer(upstream.url, None, patience=0) as server:
        if answer is not None:
            upstream.default = body(json.dumps(answer).encode())
        with pytest.raises(UpstreamProtocolError) as raised:
            await CALLS[call](PushApi(server, "team/"))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_server_that_takes_no_paths_at_once_is_asked_for_one() -> None:
    """A step of 0 was an error of Python's."""
    async with FaultUpstream() as upstream, HttpServer(upstream.url, None, patience=0) as server:
        upstream.default = body(json.dumps(BEGUN | {"max_paths": 0, "max_narinfos": -1}).encode())
        session = await PushApi(server, "").begin()
    assert (session.max_paths, session.max_narinfos) == (1, 1)


@pytest.mark.parametrize(
    ("narinfo", "nar", "words"),
    [
        (body(b"no narinfo"), status(200), f"{ONE.hash_part}.narinfo: "),
        (status(404), status(200), None),
        (body(ONE.narinfo_text), status(404), None),
        (body(ONE.narinfo_text), status(200), ""),
    ],
)
async def test_a_path_is_served_where_a_substituter_gets_its_narinfo_and_its_nar(
    narinfo: Any, nar: Any, words: str | None
) -> None:
    async with FaultUpstream() as upstream, HttpServer(upstream.url, None, patience=0) as server:
        upstream.answers = {f"/{ONE.hash_part}.narinfo": narinfo, f"/{ONE.path}": nar}
        asked = PushApi(server, "").served(ONE.hash_part, STORE_DIR)
        if words:
            with pytest.raises(UpstreamProtocolError, match=words):
                await asked
        else:
            assert await asked == (None if words is None else ONE.narinfo)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"published": [], "present": 0}, "lacks 'kept_first'"),
        ({"published": 1, "present": 0, "kept_first": []}, "is not understood: "),
        ({"published": [], "present": 0, "kept_first": [], "state": "going on"}, "and publishes nothing"),
    ],
)
async def test_a_promotion_that_would_never_end_is_given_up(answer: Any, words: str) -> None:
    async with FaultUpstream() as upstream, HttpServer(upstream.url, None, patience=0) as server:
        upstream.default = body(json.dumps(answer).encode())
        with pytest.raises(UpstreamProtocolError, match=words):
            await promote(server, "", "pulls", ["x"])
