"""No value shows the secret that it has: a log line or a traceback with the value would give it away."""

import json

import pytest

from harmonia_py.cache.cache_name import DEFAULT
from harmonia_py.catalog.tokens import Token
from harmonia_py.client.answers import Exchanged
from harmonia_py.config.logins import CacheUrl, Logins
from harmonia_py.upstream.client import Place
from harmonia_py.web.attic.bodies import Changes, decode

SECRET = "c2VjcmV0IG9mIHRoZSB0ZXN0"  # it opens nothing
URL = "https://cache.example.org"


@pytest.mark.parametrize(
    "value",
    [
        Token("abcdefghij", SECRET),
        Exchanged(token=SECRET, seconds=1, principal="token ci"),
        CacheUrl(URL, DEFAULT, SECRET),
        Logins({URL: SECRET}),
        Place(url=URL, authorization=f"Bearer {SECRET}"),
        decode(json.dumps({"keypair": {"Keypair": f"team:{SECRET}"}}).encode(), Changes),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_does_not_show_its_secret(value: object) -> None:
    assert type(value).__name__ in repr(value)
    assert SECRET not in repr(value)
