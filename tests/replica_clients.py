"""Clients of replicas behind a proxy, and what none of them may ever see, whatever happens to the servers.

    clients = Clients(replicas, lab, port, seed=1)
    with clients.at_work():           # threads: one that pushes, two that read, one that makes tokens and revokes them
        …                             # whatever happens to the servers
    assert clients.faults == []       # what was wrong, in words
    clients.published                 # StorePath -> Hash of its NAR

What they may see is an answer of 5xx, an answer that is cut, no answer: each of them tries again then, and it is a
fault when that does not help for a minute. What they may not see: wrong bytes; 404 for what was published a second ago,
by any replica; 200 to a token that was revoked a second ago, by any replica.
"""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from lab import Lab
from replicas import CACHE, Replicas

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import StoreDir, StorePath

T = TypeVar("T")

KNOWN_SECONDS: Final = 1.0
"""After so long every replica knows what was done through another one."""

_PATIENCE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.25
_ANSWER_SECONDS: Final = 30.0
_READERS: Final = 2
_SIZES: Final = (2_000, 200_000, 200_000, 200_000, 9_000_000)


class ComeAgain(Exception):
    """A replica could not answer."""


@dataclass(frozen=True, slots=True)
class Published:
    nar_hash: Hash
    at: float


class Clients:
    """Clients that push, read, make tokens and revoke them, all at once.

    Attributes:
        published: what a client was told is there.
        faults: what was wrong.
        counts: how often something was done or begun again.
    """

    def __init__(self, replicas: Replicas, lab: Lab, port: int, seed: int) -> None:
        self._replicas, self._lab, self._port = replicas, lab, port
        self._seed = seed
        self._over = threading.Event()
        self.published: dict[StorePath, Published] = {}
        self.faults: list[str] = []
        self.counts = Counter[str]()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Work until the end of the block, and finish what was begun."""
        work = [self._push_on, *[self._read_on] * _READERS, self._revoke_on]
        threads = [
            threading.Thread(target=self._until_over, args=(one, random.Random(f"{self._seed} {number}")))
            for number, one in enumerate(work)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def read_all(self, number: int) -> None:
        """Everything that was published, from one replica."""
        url = f"127.0.0.1:{self._replicas.servers[number].port}/{CACHE}"
        for path in self.published:
            self._insist(f"read of {path}", lambda path=path: self._read(url, path))  # type: ignore[misc]  # a default

    def _status(self, url: str, token: str) -> int | None:
        """What a replica answers; None when it is away."""
        try:
            return self._get(url, token)[0]
        except ComeAgain:
            self.counts["replica away"] += 1
            return None

    def _get(self, url: str, token: str) -> tuple[int, bytes]:
        """The status, 200, 401 or 404, and the whole body.

        Raises:
            ComeAgain: the server cannot tell, or not all.
        """
        host, _, place = url.partition("/")
        connection = http.client.HTTPConnection(host, timeout=_ANSWER_SECONDS)
        try:
            connection.request("GET", f"/{place}", headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ComeAgain(repr(error)) from None
        finally:
            connection.close()
        if answer.status >= 500:
            raise ComeAgain(f"{url}: {answer.status}")
        assert answer.status in {200, 401, 404}, f"{url}: {answer.status}"
        return answer.status, body

    def _until_over(self, work: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            while not self._over.is_set() and not self.faults:
                work(chance)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test shall see it
            self.faults.append(repr(error))

    def _push_on(self, chance: random.Random) -> None:
        """A new path, until it is there; then every replica has it within a second."""
        file = self._lab.root / "to-be-added"
        file.write_bytes(chance.randbytes(chance.choice(_SIZES)))
        path = self._lab.add(file)
        url = f"http://x:{self._replicas.push}@127.0.0.1:{self._port}/{CACHE}/push?compression=zstd"
        self._insist(f"push of {path}", lambda: self._copy(url, path))
        self.published[path] = Published(Hash.of(self._lab.dump(path)), time.monotonic())
        self.counts["pushed"] += 1
        time.sleep(KNOWN_SECONDS)  # the promise is for then
        for number, server in enumerate(self._replicas.servers):
            url = f"127.0.0.1:{server.port}/{CACHE}/{path.hash_part}.narinfo"
            match self._status(url, self._replicas.read):
                case 200:
                    self.counts["known by a replica"] += 1
                case 404:
                    self.faults.append(f"replica {number} does not have {path} a second after it was published")

    def _copy(self, url: str, path: StorePath) -> bool:
        done = self._lab.run("nix", "copy", "--to", url, self._lab.full(path), check=False)
        if done.returncode != 0:
            raise ComeAgain(done.stderr.decode()[-2000:])
        return True

    def _read_on(self, chance: random.Random) -> None:
        """Something that is published, whole and right."""
        known = [path for path, one in list(self.published.items()) if time.monotonic() - one.at > KNOWN_SECONDS]
        if not known:
            self._over.wait(_PAUSE_SECONDS)
            return
        path = chance.choice(known)
        server = chance.choice([self._port, *(one.port for one in self._replicas.servers)])
        self._insist(f"read of {path}", lambda: self._read(f"127.0.0.1:{server}/{CACHE}", path))
        self.counts["read"] += 1

    def _read(self, url: str, path: StorePath) -> bool:
        status, body = self._get(f"{url}/{path.hash_part}.narinfo", self._replicas.read)
        if status != 200:
            self.faults.append(f"{url}: {path} was published, and is {status}")
            return True
        narinfo = NarInfo.parse(body, StoreDir(self._lab.store_dir))
        if narinfo.path_info.nar_hash != self.published[path].nar_hash:
            self.faults.append(f"{url}: {path} has another NarHash")
        status, nar = self._get(f"{url}/{narinfo.url}", self._replicas.read)
        if status != 200 or Hash.of(nar) != narinfo.file_hash:
            self.faults.append(f"{url}/{narinfo.url}: {status} or wrong bytes")
        return True

    def _revoke_on(self, chance: random.Random) -> None:
        """A token that works, and that no replica takes any more a second after it was revoked."""
        name, token = self._insist("a new token", lambda: self._new_token(chance))
        urls = [f"127.0.0.1:{server.port}/{CACHE}/nix-cache-info" for server in self._replicas.servers]
        for url in urls:
            if self._status(url, token) == 401:  # it may be younger than a second
                self.counts["token not known yet"] += 1
        self._insist("a token's end", lambda: self._revoke(name))
        time.sleep(KNOWN_SECONDS)  # the promise is for then
        for url in urls:
            match self._status(url, token):
                case 401:
                    self.counts["refused"] += 1
                case 200:
                    self.faults.append(f"{url}: a token is good a second after it was revoked")
        self.counts["revoked"] += 1

    def _new_token(self, chance: random.Random) -> tuple[str, str]:
        """Its name, another one each time: that of a token whose creation was not told of is taken."""
        name = f"guest-{chance.randrange(10**9)}"
        return name, self._command("token", "create", name, "--cache", CACHE)

    def _revoke(self, name: str) -> bool:
        try:
            self._command("token", "revoke", name)
        except ComeAgain as error:
            if "no token" not in str(error):  # an answer was lost
                raise
        return True

    def _command(self, *arguments: str) -> str:
        try:
            return self._replicas.command(*arguments)
        except AssertionError as error:
            raise ComeAgain(str(error)[-2000:]) from None

    def _insist(self, what: str, work: Callable[[], T]) -> T:
        """What `work` gives, begun again and again."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return work()
            except ComeAgain as error:
                self.counts[f"{what.partition(' ')[0]} begun again"] += 1
                if time.monotonic() > end:
                    raise AssertionError(f"{what}: no retry helps: {error}") from None
            time.sleep(_PAUSE_SECONDS)
