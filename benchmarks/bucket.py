"""Files in a bucket, beside the bare thing: one NAR of a gibibyte, on SeaweedFS on this machine.

    PYTHONPATH=.:tests python -m benchmarks.bucket [--mebibytes 1024] [--rounds 3]

It is read through the server and by obstore alone, by redirect and by curl alone; pushed through the server, and by
redirect; and sent to the bucket in parts, by our client and by obstore alone: both send four parts of 8 MiB at once and
sign no hash of them. The medians of several rounds and what they are of each other, as JSON. The server has one worker;
what it costs is the processor time of all its processes.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from administering import Machine
from obstore.store import S3Store
from seaweed import Bucket, Seaweed, environment
from server import INTERPRETER, Server

from harmonia_py.client.answers import UploadInParts
from harmonia_py.client.api import PushApi
from harmonia_py.client.http import HttpServer
from harmonia_py.client.made_file import StoredFile
from harmonia_py.client.past_server import PastServer
from harmonia_py.client.upload_api import UploadApi
from harmonia_py.errors import PushRefused
from harmonia_py.nix.base32 import encode
from harmonia_py.runtime.threads import Pool, Threads

_MIB: Final = 1024 * 1024
_HASH_PART: Final = "26xbg1ndr7hbcncrlf9nhx5is2b25d1{}"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PART: Final = 8 * _MIB
_AT_ONCE: Final = 4
# What is measured, and beside what.
_RATIOS: Final = (
    ("read through the server", "read by obstore alone"),
    ("read by redirect", "read by curl alone"),
    ("send in parts", "send in parts by obstore alone"),
    ("send in parts", "push by redirect"),
)


class Nar:
    """A NAR of one file of random bytes, on the disk, and its narinfo."""

    def __init__(self, directory: Path, number: int, mebibytes: int) -> None:
        def text(data: bytes) -> bytes:
            return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)

        self.hash_part = _HASH_PART.format(number)
        self.path = directory / f"{number}.nar"
        words = (b"nix-archive-1", b"(", b"type", b"regular", b"contents")
        block, digest = os.urandom(_MIB), hashlib.sha256()
        with self.path.open("wb") as out:
            head = b"".join(map(text, words)) + (mebibytes * _MIB).to_bytes(8, "little")
            for data in (head, *([block] * mebibytes), text(b")")):
                out.write(data)
                digest.update(data)
        self.hash = encode(digest.digest())
        self.size = self.path.stat().st_size
        self.url = f"nar/{self.hash}.nar"
        self.narinfo = (
            f"StorePath: /nix/store/{self.hash_part}-big\nURL: {self.url}\nCompression: none\n"
            f"FileHash: sha256:{self.hash}\nFileSize: {self.size}\nNarHash: sha256:{self.hash}\nNarSize: {self.size}\n"
            "References: \n"
        ).encode()


class NarOnDisk(StoredFile):
    """A NAR as the client has it once it is made."""

    def __init__(self, nar: Nar, threads: Threads) -> None:
        super().__init__(threads)
        self._file.close()
        self._file = nar.path.open("r+b")
        self.name, self.size = nar.url.removeprefix("nar/"), nar.size


class Uploads(UploadApi):
    """Notes when the parts of a file have all been sent; then the server forgets them, or takes them in.

    Attributes:
        sent: when, by `time.perf_counter`.
    """

    sent: float | None = None

    def __init__(self, server: HttpServer, *, forget: bool) -> None:
        super().__init__(server, "team/")
        self._forget = forget

    async def finish_parts(self, upload: UploadInParts, etags: Sequence[str]) -> bool:
        self.sent = self.sent or time.perf_counter()
        if not self._forget:
            return await super().finish_parts(upload, etags)
        await self.give_up_parts(upload)
        raise PushRefused("it was only sent")


class Bench:
    """A running server, and what its clients do."""

    def __init__(self, server: Server, token: str) -> None:
        self.server = server
        self._token = token
        self._headers = {"Authorization": f"Bearer {token}"}

    def cpu(self) -> float:
        """Processor seconds of the server so far."""
        total = 0
        for pid in self.server.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / _TICKS

    def put(self, url: str, data: Any, size: int, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)) as connection:
            path = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request("PUT", path, data, {"Content-Length": str(size), **headers})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()

    def send(self, nar: Nar) -> None:
        """Push the file through the server."""
        with nar.path.open("rb") as stream:
            self.put(f"{self.server.url}/team/push/{nar.url}", stream, nar.size, self._headers)

    def send_past(self, nar: Nar) -> None:
        """Push the file to where the server sends this client."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as connection:
            connection.putrequest("PUT", f"/team/push/{nar.url}")
            headers = {**self._headers, "Content-Length": str(nar.size), "Expect": "100-continue"}
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            assert answer.status == 307, answer.status
            location = answer.headers["Location"]
        with nar.path.open("rb") as stream:
            self.put(location, stream, nar.size, {})

    def send_in_parts(self, nar: Nar, *, forget: bool) -> tuple[float, float]:
        """Push the file in parts, as our client does; seconds until the parts are sent, and all that follows."""

        async def send() -> tuple[float, float]:
            with Threads(Pool.SEND, 2) as threads, NarOnDisk(nar, threads) as file:
                async with (
                    HttpServer(self.server.url, self._token) as server,
                    HttpServer(self.server.url, None) as there,
                ):
                    session = await PushApi(server, "team/").begin()
                    uploads = Uploads(server, forget=forget)
                    began = time.perf_counter()
                    is_taken = await PastServer(uploads, there).send(session, file)
                    assert is_taken is not forget, "the file was not sent in parts"
                    assert uploads.sent is not None
                    return uploads.sent - began, time.perf_counter() - uploads.sent

        return asyncio.run(send())

    def publish(self, nar: Nar) -> None:
        url = f"{self.server.url}/team/push/{nar.hash_part}.narinfo"
        self.put(url, nar.narinfo, len(nar.narinfo), self._headers)

    def nar_url(self, nar: Nar) -> str:
        """Where readers get the NAR."""
        text = self.server.get(f"/team/{nar.hash_part}.narinfo", self._headers).body.decode()
        return f"{self.server.url}/team/" + text.partition("URL: ")[2].partition("\n")[0]


def curl(url: str, *options: str) -> None:
    subprocess.run(["curl", "--silent", "--fail", "--output", "/dev/null", *options, url], check=True)


@contextmanager
def serving(root: Path, bucket: Bucket, **storage: object) -> Iterator[Bench]:
    settings = {
        "workers": 1,
        "sign": False,
        "compression": "none",
        "nix_db_path": str(root / "none.sqlite"),
        "caches": {"team": {"public": True}},
        "storage": {
            "url": bucket.url("kept"),
            "public_endpoint": bucket.endpoint.replace("127.0.0.1", "localhost"),
            "scrub_every": "never",
            **storage,
        },
    }
    env = {"PATH": os.environ["PATH"], "HOME": str(root), **environment()}
    with Server(root, env, settings, interpreter=INTERPRETER) as server:
        machine = Machine(root)
        name = f"ci-{time.time_ns()}"
        token = machine.do("token", "create", name, "--cache", "team", "--allow", "read,push").strip()
        yield Bench(server, token)


def timed(work: Callable[[], object], bench: Bench | None = None) -> tuple[float, float]:
    """Seconds that something takes, and processor seconds of the server meanwhile."""
    cpu = bench.cpu() if bench is not None else 0.0
    began = time.perf_counter()
    work()
    return time.perf_counter() - began, (bench.cpu() - cpu if bench is not None else 0.0)


def measure(root: Path, bucket: Bucket, mebibytes: int, rounds: int) -> dict[str, Any]:
    nars = [Nar(root, number, mebibytes) for number in (0, 1, 2)]
    found: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, result: tuple[float, float]) -> None:
        found.setdefault(name, []).append(result)

    def obstore_alone() -> None:
        for _ in bucket.store("kept").get(nars[0].url).stream(min_chunk_size=_MIB):
            pass

    def parts_by_obstore() -> None:
        store.put("alone.nar", nars[2].path, use_multipart=True, chunk_size=_PART, max_concurrency=_AT_ONCE)

    key_id, secret = environment().values()
    store = S3Store(
        bucket.name,
        prefix="alone",
        endpoint=bucket.endpoint,
        region="us-east-1",
        access_key_id=key_id,
        secret_access_key=secret,
        unsigned_payload=True,
        client_options={"allow_http": True},
    )
    with serving(root, bucket, redirect_from="never", redirect_uploads_from=0) as bench:
        note("push through the server", timed(lambda: bench.send(nars[0]), bench))
        note("publish", timed(lambda: bench.publish(nars[0]), bench))
        note("push by redirect", timed(lambda: bench.send_past(nars[1]), bench))
        note("publish after a redirect, which reads it back", timed(lambda: bench.publish(nars[1]), bench))
        for _ in range(rounds):
            note("send in parts by obstore alone", timed(parts_by_obstore))
            store.delete("alone.nar")
            cpu = bench.cpu()
            seconds, _ = bench.send_in_parts(nars[2], forget=True)
            note("send in parts", (seconds, bench.cpu() - cpu))
        cpu = bench.cpu()
        _, seconds = bench.send_in_parts(nars[2], forget=False)
        note("take in what was sent in parts, which reads it back", (seconds, bench.cpu() - cpu))
        url = bench.nar_url(nars[0])
        for _ in range(rounds):
            note("read by obstore alone", timed(obstore_alone))
            note("read through the server", timed(lambda: curl(url), bench))
    with serving(root, bucket, redirect_from=0) as bench:
        url = bench.nar_url(nars[0])
        location = bench.server.get(url.removeprefix(bench.server.url)).headers["Location"]
        for _ in range(rounds):
            note("read by curl alone", timed(lambda: curl(location)))
            note("read by redirect", timed(lambda: curl(url, "--location"), bench))
    medians = {name: statistics.median(seconds for seconds, _ in results) for name, results in found.items()}
    rows = {
        name: {
            "MiB/s": round(mebibytes / medians[name]),
            "seconds": round(medians[name], 3),
            "cpu of the server": round(statistics.median(cpu for _, cpu in results), 2),
        }
        for name, results in found.items()
    }
    ratios = {f"{name} : {other}": round(medians[other] / medians[name], 2) for name, other in _RATIOS}
    return {**rows, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, Seaweed(Path(directory, "seaweed")) as seaweed:
        result = measure(Path(directory), seaweed.bucket(), options.mebibytes, options.rounds)
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
