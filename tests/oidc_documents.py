"""What an issuer tells, without a network, and rules for its tokens.

issuer = Issuer(URL, Documents(KEY))
rule("read push", "main", repository="acme/*")
"""

import json
from typing import Final

from issuer import DISCOVERY, SigningKey

from harmonia_py.cache.access import grants_of
from harmonia_py.cache.identity import ClaimPattern, IdentityRule

URL: Final = "https://ci.example.org"
KEY: Final = SigningKey("one")


class Documents:
    """What an issuer tells, without a network: a `Fetch`."""

    def __init__(self, *keys: SigningKey, url: str = URL) -> None:
        self.keys = list(keys)
        self.url = url
        self.asked = 0
        self.failure: Exception | None = None

    async def __call__(self, url: str) -> bytes | None:
        if self.failure is not None:
            self.asked += 1
            raise self.failure
        if url == DISCOVERY.removeprefix("/"):
            self.asked += 1
            return json.dumps({"issuer": self.url, "jwks_uri": f"{URL}/jwks"}).encode()
        assert url == f"{URL}/jwks"
        return json.dumps({"keys": [key.jwk for key in self.keys]}).encode()


def rule(allow: str = "push", cache: str = "main", seconds: int = 3600, **claims: str | list[str]) -> IdentityRule:
    patterns = {
        name: tuple(map(ClaimPattern, [value] if isinstance(value, str) else value)) for name, value in claims.items()
    }
    return IdentityRule(patterns, grants_of(allow.split(), [cache]), seconds)
