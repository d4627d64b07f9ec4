"""The tokens of a file, of which only hashes are kept: each may read the cache at `/`.

A token is made of 256 random bits, too many to guess, and one round of SHA-256 keeps it as secret as scrypt would:
slow hashes protect what people think up. They would also let a client that sends wrong tokens keep every core busy.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Final, Self

from msgspec import Struct

from harmonia_py.cache.access import Action, CachePattern, Grant, Principal
from harmonia_py.cache.cache_name import DEFAULT
from harmonia_py.errors import FormatError, naming
from harmonia_py.nix.hashes import Hash

# Every request without a ready answer is compared with all of them: some tenths of a millisecond.
MAX_TOKENS: Final = 1000
_MAX_TOKEN_LENGTH: Final = 512
_RANDOM_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)
_READ_DEFAULT: Final = (Grant(frozenset([Action.READ]), CachePattern(DEFAULT)),)


class TokenHash(Struct, frozen=True):
    """A token as a file has it: a name for people, and the SHA-256 of what a client sends."""

    name: str
    digest: Hash

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read `<name>:sha256:<hash>` or `<name>:sha256-<base-64>`.

        Raises:
            FormatError: anything else.
        """
        name, colon, digest = line.partition(":")
        if not colon or _NAME.fullmatch(name) is None:
            raise FormatError("a line is NAME:sha256:HASH, the name of letters, digits and _.@-")
        return cls(name, Hash.parse(digest, "sha256"))

    @classmethod
    def generate(cls, name: str) -> tuple[str, Self]:
        """A new token from the system's random numbers, and its hash.

        Raises:
            FormatError: a name that cannot stand in a file.
        """
        token = secrets.token_urlsafe(_RANDOM_BYTES)
        return token, cls.parse(f"{name}:{Hash.of(token.encode())}")

    def __str__(self) -> str:
        return f"{self.name}:sha256:{self.digest.base16}"


class Tokens:
    """The tokens that open the cache at `/`, an `Authenticator`; possibly none, and then nothing does."""

    def __init__(self, tokens: Iterable[TokenHash]) -> None:
        self._tokens = tuple(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token a line; empty lines and those that begin with `#` are for people.

        Raises:
            FormatError: what is wrong, with the number of the line.
        """
        tokens = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            with naming(f"line {number}", FormatError):
                tokens.append(TokenHash.parse(line.strip()))
        if len(tokens) > MAX_TOKENS:
            raise FormatError(f"more than {MAX_TOKENS} tokens")
        return cls(tokens)

    def find(self, token: str) -> str | None:
        """The name of `token`; None when it is none of these. It takes as long for any token of the same length."""
        if len(token) > _MAX_TOKEN_LENGTH:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for one in self._tokens:
            if hmac.compare_digest(one.digest.digest, digest):
                found = one.name
        return found

    def takes(self, _token: str) -> bool:
        """True: a token of this kind may be any text. So beside a file of tokens no unknown password is anonymous."""
        return True

    async def principal(self, token: str) -> Principal | None:
        """Whose token it is; it may read the cache at `/`."""
        name = self.find(token)
        return None if name is None else Principal(f"token {name}", _READ_DEFAULT)
