"""An issuer of ID tokens on loopback, over HTTP or HTTPS: discovery, keys, and tokens that these sign.

    with Issuer() as issuer:
        issuer.url                          # http://127.0.0.1:PORT, which is what `iss` says
        issuer.token(ref="refs/heads/main") # a token of now, with these claims
        issuer.answers["/jwks"] = Reply(500)
        issuer.requests                     # the paths, in the order in which they were asked for

A `SigningKey` signs by itself, for tokens that no issuer makes.
"""

import base64
import json
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from certificates import Pair
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AUDIENCE: Final = "https://cache.example.org"
SUBJECT: Final = "repo:acme/widgets:ref:refs/heads/main"
DISCOVERY: Final = "/.well-known/openid-configuration"
# A key of RSA takes tens of milliseconds to make.
_RSA: Final = [rsa.generate_private_key(65537, 2048) for _ in range(2)]


@dataclass(frozen=True)
class SigningKey:
    """A key pair of an issuer."""

    kid: str
    algorithm: str = "RS256"
    private: Any = field(default_factory=lambda: _RSA[0])

    @classmethod
    def of(cls, algorithm: str, kid: str = "one") -> Self:
        private: Any = {
            "RS256": lambda: _RSA[0],
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": Ed25519PrivateKey.generate,
        }[algorithm]()
        return cls(kid, algorithm, private)

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half, as a key set has it."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        fields: dict[str, Any] = json.loads(algorithm.to_jwk(self.private.public_key()))
        return fields | {"kid": self.kid, "use": "sig", "alg": self.algorithm}

    def sign(self, claims: Mapping[str, Any], **header: Any) -> str:
        return jwt.encode(dict(claims), self.private, self.algorithm, headers={"kid": self.kid} | header)


OTHER_RSA: Final = SigningKey("one", private=_RSA[1])
"""A key that no issuer has, under the name that theirs has."""


def claims_of(url: str, now: float | None = None, **claims: Any) -> dict[str, Any]:
    """The claims of a job, valid for five minutes; one that is None is left out."""
    at = int(time.time() if now is None else now)
    times = {"iat": at, "nbf": at, "exp": at + 300}
    all_of_them = {"iss": url, "aud": AUDIENCE, "sub": SUBJECT, "repository": "acme/widgets"} | times | claims
    return {name: value for name, value in all_of_them.items() if value is not None}


def by_hand(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    """A token that libraries refuse to make."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature or b"\0"]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Issuer:
    """An issuer of ID tokens, with the documents and the keys that its discovery leads to."""

    def __init__(self, key: SigningKey | None = None, certificate: Pair | None = None) -> None:
        self.keys = [key or SigningKey("one")]
        self.requests: list[str] = []
        self.job_claims: dict[str, Any] = {}
        self.answers: dict[str, Reply] = {}
        self._certificate = certificate

    def __enter__(self) -> Self:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests.append(self.path)
                bearer = self.headers.get("Authorization", "")
                reply = issuer.answers.get(self.path) or issuer._reply(self.path, bearer)
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate.chain, self._certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if self._certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def job(self) -> dict[str, str]:
        """The environment of a job that is handed out a token as GitHub and Forgejo do."""
        url = f"{self.url}/hand-out?api-version=2.0"
        return {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job"}

    def _reply(self, path: str, bearer: str) -> Reply:
        parts = urlsplit(path)
        if parts.path == "/hand-out" and bearer == "Bearer of-the-job":
            (audience,) = parse_qs(parts.query)["audience"]
            return Reply(body=json.dumps({"value": self.token(aud=audience, **self.job_claims)}).encode())
        if path == DISCOVERY:
            return Reply(body=json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}).encode())
        if path == "/jwks":
            return Reply(body=json.dumps({"keys": [key.jwk for key in self.keys]}).encode())
        return Reply(404)

    def token(self, **claims: Any) -> str:
        return self.keys[0].sign(claims_of(self.url, **claims))


def table_of(issuer: Issuer | str, *rules: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """`[oidc.NAME]` for an issuer."""
    url = issuer if isinstance(issuer, str) else issuer.url
    return {"issuer": url, "audience": AUDIENCE, "rules": list(rules)} | fields
