"""The client of Attic as it speaks on the wire, and tokens as `atticadm make-token` makes them.

    token = make_token("alice", {"team": {"r": 1, "w": 1}})       # HS256, with `SECRET`; the order of caches is kept
    attic = AtticClient(server.url, token)
    attic.create("team")                                          # Answer(status, body)
    attic.push("team", [description(pushed), …])                  # the whole of `attic push`: statuses of the uploads

Written from `client/src/api/mod.rs`, `client/src/push.rs` and `attic/src/api/v1` of Attic: requests have its headers,
the fields of its JSON come in its order, bodies of uploads are chunked, and paths are sent in an order of no meaning.
"""

import base64
import contextlib
import dataclasses
import http.client
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
from lab import Lab
from pushed_paths import STORE, Pushed

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StoreDir, StorePath

TIME_LIMIT: Final = 60.0
SECRET: Final = bytes(range(32))
NAMESPACE: Final = "https://jwt.attic.rs/v1"
_PREAMBLE_THRESHOLD: Final = 4096
_CHUNK: Final = 64 * 1024

EVERYTHING: Final = {"r": 1, "w": 1, "d": 1, "cc": 1, "cr": 1, "cq": 1, "cd": 1}
"""Every permission that there is."""

VECTOR: Final = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjQxMDI0NDQ4MDAsIm5iZiI6MTc1ODAwMDAwMCwic3ViIjoiYWxpY2UiLCJodHRwczovL2p3"
    "dC5hdHRpYy5ycy92MSI6eyJjYWNoZXMiOnsiYWxpY2UtKiI6eyJyIjoxLCJ3IjoxLCJjYyI6MX0sIm1haW4iOnsiciI6MX19fX0.QY1Xnjdo6fyjngKvKo"
    "IRR3BTA5nBy8PL9zLPxfQDHfk"
)
"""A token of `alice` that atticadm of b7c9056 made with `SECRET`: r, w, cc of `alice-*`, r of `main`."""


def secret_base64(secret: bytes = SECRET) -> str:
    return base64.b64encode(secret).decode()


def make_token(
    sub: str,
    caches: Mapping[str, Mapping[str, Any]],
    *,
    key: Any = SECRET,
    algorithm: str | None = "HS256",
    headers: Mapping[str, Any] | None = None,
    **claims: Any,
) -> str:
    """What `atticadm make-token --sub SUB` prints; other `claims` replace its own, and None leaves one out."""
    now = int(time.time())
    body = {"exp": now + 3600, "nbf": now, "sub": sub, NAMESPACE: {"caches": caches}} | claims
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=algorithm, headers=dict(headers or {}))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; an error by its name, where it has Attic's shape."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """As the client prints it."""
        told = self.json
        assert told["code"] == self.status
        return f"{told['error']}: {told['message']}"


@dataclass(frozen=True, slots=True)
class Path:
    """A path as the client finds it in its store, and its NAR."""

    store_path: StorePath
    references: tuple[StorePath, ...]
    nar: bytes
    nar_hash: str
    nar_size: int
    sigs: tuple[str, ...] = ()
    ca: str | None = None
    store_dir: StoreDir = STORE

    def claiming(self, **fields: Any) -> "Path":
        return dataclasses.replace(self, **fields)

    def description(self, cache: str) -> dict[str, Any]:
        """`UploadPathNarInfo`, its fields in the order of the client."""
        return {
            "cache": cache,
            "store_path_hash": self.store_path.hash_part,
            "store_path": self.store_dir.join(self.store_path),
            "references": list(self.references),
            "system": None,
            "deriver": None,
            "sigs": list(self.sigs),
            "ca": self.ca,
            "nar_hash": self.nar_hash,
            "nar_size": self.nar_size,
        }


def of_pushed(what: Pushed) -> Path:
    """A path of `pushed_paths`, which is not compressed."""
    info = what.claim.path_info
    return Path(
        info.store_path, info.references, what.data, f"sha256:{info.nar_hash.base16}", info.nar_size, store_dir=STORE
    )


def of_lab(lab: Lab, *paths: StorePath) -> list[Path]:
    """The closure of paths, as `attic push` reads it from the daemon."""
    infos = lab.path_infos("--recursive", *map(lab.full, paths))
    found = []
    for full, info in sorted(infos.items()):
        store_path = lab.store_dir.parse_path(full)
        found.append(
            Path(
                store_path,
                tuple(lab.store_dir.parse_path(text) for text in info["references"]),
                lab.dump(store_path),
                f"sha256:{Hash.parse(info['narHash'], 'sha256').base16}",
                info["narSize"],
                tuple(info.get("signatures", ())),
                info.get("ca"),
                lab.store_dir,
            )
        )
    return found


class AtticClient:
    """A client of one server, with one token or none.

    Args:
        endpoint: of the server, as `attic login` was told it.
        token: likewise; None for a server without one.
    """

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        self._endpoint = urlsplit(endpoint)
        self._headers = {"User-Agent": "Attic/attic-client (test double)", "Accept": "*/*"}
        if token is not None:
            self._headers["Authorization"] = f"bearer {token}"

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> Answer:
        assert self._endpoint.hostname is not None
        connection = http.client.HTTPConnection(self._endpoint.hostname, self._endpoint.port, timeout=TIME_LIMIT)
        with contextlib.closing(connection):
            # Refused in the middle of the body: the answer is read all the same, as hyper does.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, self._headers | dict(headers or {}), encode_chunked=chunked)
            response = connection.getresponse()
            return Answer(response.status, response.read())

    def _json(self, method: str, path: str, body: Any) -> Answer:
        return self.request(method, path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def config(self, cache: str) -> Answer:
        return self.request("GET", f"/_api/v1/cache-config/{cache}")

    def create(
        self,
        cache: str,
        *,
        public: bool = False,
        priority: int = 41,
        store_dir: str = STORE,
        upstreams: Sequence[str] = ("cache.nixos.org-1",),
        keypair: Any = "Generate",
    ) -> Answer:
        """`attic cache create`, with its defaults."""
        body = {
            "keypair": keypair,
            "is_public": public,
            "store_dir": store_dir,
            "priority": priority,
            "upstream_cache_key_names": list(upstreams),
        }
        return self._json("POST", f"/_api/v1/cache-config/{cache}", body)

    def configure(self, cache: str, *, retention_period: Any = "Global", **changes: Any) -> Answer:
        """`attic cache configure`, which always says something of the retention."""
        return self._json("PATCH", f"/_api/v1/cache-config/{cache}", {**changes, "retention_period": retention_period})

    def patch(self, cache: str, body: Any) -> Answer:
        return self._json("PATCH", f"/_api/v1/cache-config/{cache}", body)

    def destroy(self, cache: str) -> Answer:
        return self.request("DELETE", f"/_api/v1/cache-config/{cache}")

    def missing(self, cache: str, hash_parts: Iterable[str]) -> Answer:
        body = {"cache": cache, "store_path_hashes": list(hash_parts)}
        return self._json("POST", "/_api/v1/get-missing-paths", body)

    def upload(self, cache: str, path: Path, *, force_preamble: bool = False) -> Answer:
        """One path, its description in a header, or before the NAR when it is long."""
        text = json.dumps(path.description(cache), separators=(",", ":")).encode()
        if force_preamble or len(text) >= _PREAMBLE_THRESHOLD:
            headers = {"X-Attic-Nar-Info-Preamble-Size": str(len(text))}
            return self.send(headers, [text, path.nar])
        return self.send({"X-Attic-Nar-Info": text.decode()}, [path.nar])

    def send(self, headers: Mapping[str, str], parts: Iterable[bytes]) -> Answer:
        """A PUT of `upload-path`; its body comes in chunks."""
        return self.request(
            "PUT",
            "/_api/v1/upload-path",
            _chunks(parts),
            {"Transfer-Encoding": "chunked", **headers},
            chunked=True,
        )

    def push(
        self, cache: str, paths: Sequence[Path], *, force_preamble: bool = False, order: Random | None = None
    ) -> dict[StorePath, Answer]:
        """`attic push`: what became of each path that was sent; fails when the cache cannot be looked at."""
        return AtticSession(self, cache, force_preamble=force_preamble, order=order).push(paths)


class AtticSession:
    """`attic watch-store`, or the one batch of `attic push`: the cache is looked at once, before the first batch.

    Args:
        client: of the server.
        cache: that is pushed to; it fails when that cannot be looked at.
        force_preamble: whether every description comes before the NAR.
        order: of the uploads.
    """

    def __init__(
        self, client: AtticClient, cache: str, *, force_preamble: bool = False, order: Random | None = None
    ) -> None:
        self._client = client
        self._cache = cache
        self._force_preamble = force_preamble
        self._order = order or Random()
        self._sent: set[StorePath] = set()
        config = client.config(cache)
        assert config.status == 200, config.body
        self._left_out = config.json["upstream_cache_key_names"]

    def push(self, paths: Sequence[Path]) -> dict[StorePath, Answer]:
        """A batch: what became of each path that was sent. What this session has sent before is not sent again."""
        mine = [path for path in paths if not any(sig.partition(":")[0] in self._left_out for sig in path.sigs)]
        answer = self._client.missing(self._cache, [path.store_path.hash_part for path in mine])
        assert answer.status == 200, answer.body
        wanted = set(answer.json["missing_paths"])
        assert wanted <= {path.store_path.hash_part for path in mine}
        to_send = [path for path in mine if path.store_path.hash_part in wanted and path.store_path not in self._sent]
        self._order.shuffle(to_send)
        self._sent |= {path.store_path for path in to_send}
        return {
            path.store_path: self._client.upload(self._cache, path, force_preamble=self._force_preamble)
            for path in to_send
        }


def _chunks(parts: Iterable[bytes]) -> Iterator[bytes]:
    for part in parts:
        for start in range(0, len(part), _CHUNK):
            yield part[start : start + _CHUNK]
