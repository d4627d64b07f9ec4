"""An S3 server for tests: SeaweedFS, from a wheel, one for all processes of a test run, a bucket for each test.

    bucket: Bucket                     # the fixture, in conftest.py
    bucket.url("prefix")               # s3://…?endpoint=… for `[storage] url`
    bucket.store()                     # an obstore client of it
    bucket.public                      # the HTTP address at which everybody may read it, where `everybody=True`
    environment()                      # the credentials, for a server of its own process

It is started by the first process that wants it and ended by the last one. Nothing of it leaves this machine.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store
from ports import free_ports

from harmonia_py.storage.s3.settings import S3Credentials, S3Settings

START_LIMIT: Final = 60.0
_ACCESS_KEY: Final = "tests"
_SECRET_KEY: Final = "secret-of-the-tests"
# What everybody may read.
_PUBLIC: Final = "public-"
_PARTS: Final = ("master", "volume", "filer", "s3", "admin")
_ATTEMPTS: Final = 5
_PORT_TAKEN: Final = "Port allocation failed"
_WEED: Final = Path(sys.executable).parent / "weed"


def environment() -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": _ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": _SECRET_KEY}


@dataclass(frozen=True, slots=True)
class Bucket:
    name: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def public(self) -> str:
        return f"{self.endpoint}/{self.name}"

    def url(self, prefix: str = "", **parameters: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in {"endpoint": self.endpoint, **parameters}.items())
        return f"s3://{self.name}/{prefix}?{query}"

    def settings(self, prefix: str = "", **more: Any) -> S3Settings:
        return S3Settings(
            bucket=self.name,
            prefix=prefix,
            endpoint=self.endpoint,
            credentials=S3Credentials(access_key_id=_ACCESS_KEY, secret_access_key=_SECRET_KEY),
            **more,
        )

    def store(self, prefix: str = "") -> S3Store:
        return _store(self.name, self.port, prefix)

    def all_keys(self) -> list[str]:
        return sorted(found["path"] for page in self.store().list() for found in page)


def _store(bucket: str, port: int, prefix: str = "") -> S3Store:
    return S3Store(
        bucket,
        prefix=prefix or None,
        endpoint=f"http://127.0.0.1:{port}",
        region="us-east-1",
        access_key_id=_ACCESS_KEY,
        secret_access_key=_SECRET_KEY,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


class Seaweed:
    """The server of this test run, used by this process; `with` begins and ends that."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state = directory / "state.json"

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._locked() as state:
            if not state.get("users"):
                state.update(_start(self._directory))
            state["users"] = state.get("users", 0) + 1
            self.port = int(state["port"])
        return self

    def __exit__(self, *_: object) -> None:
        with self._locked() as state:
            state["users"] -= 1
            if not state["users"]:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(state["pid"], signal.SIGKILL)
                shutil.rmtree(self._directory / "data", ignore_errors=True)

    def bucket(self, *, everybody: bool = False) -> Bucket:
        """A new bucket, which everybody may read when they may."""
        name = f"{_PUBLIC if everybody else 'test-'}{secrets.token_hex(8)}"
        # obstore makes no buckets, but signs the request that does.
        url = obstore.sign(_store(name, self.port), "PUT", "", timedelta(minutes=1))
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=START_LIMIT):
            return Bucket(name, self.port)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        with (self._directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = json.loads(self._state.read_text()) if self._state.exists() else {}
            yield state
            self._state.write_text(json.dumps(state))


def _start(directory: Path) -> dict[str, Any]:
    """Start a server, and say when it takes files."""
    for _ in range(_ATTEMPTS):
        if (started := _attempt(directory)) is not None:
            return started
    raise AssertionError((directory / "output").read_text())


def _attempt(directory: Path) -> dict[str, Any] | None:
    """Start a server; None when another program has taken one of the ports that were free a moment ago."""
    identities = [
        {
            "name": "tests",
            "credentials": [{"accessKey": _ACCESS_KEY, "secretKey": _SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {"name": "anonymous", "actions": [f"Read:{_PUBLIC}*"]},
    ]
    config = directory / "identities.json"
    config.write_text(json.dumps({"identities": identities}))
    ports = free_ports(2 * len(_PARTS))
    data = directory / "data"
    data.mkdir(exist_ok=True)
    arguments = [
        *(str(_WEED), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"),
        *("-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.autoCreateBucket=false"),
        # Each bucket has volumes of its own; what is found free on the disk is enough for sixty.
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=10000"),
        *(f"-{part}.port={port}" for part, port in zip(_PARTS, ports, strict=False)),
        *(f"-{part}.port.grpc={port}" for part, port in zip(_PARTS, ports[len(_PARTS) :], strict=False)),
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "GOMEMLIMIT": "256MiB"}
    output = directory / "output"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    # Not `subprocess`: another process of the test run may end it.
    pid = os.posix_spawn(
        _WEED,
        arguments,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_OPEN, fd, str(output), flags, 0o644) for fd in (1, 2)),
        ],
        setsid=True,
    )
    port = ports[_PARTS.index("s3")]
    deadline = time.monotonic() + START_LIMIT
    while not _takes_files(port):
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            assert _PORT_TAKEN in output.read_text(), output.read_text()
            return None
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
    return {"pid": pid, "port": port}


def _takes_files(port: int) -> bool:
    """It answers before it can keep anything."""
    store = _store("ready", port)
    try:
        url = obstore.sign(store, "PUT", "", timedelta(minutes=1))
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
        except urllib.error.HTTPError as refused:  # it is there from the time before
            refused.close()
        store.put("ready", b"ready")
    except (OSError, BaseError):
        return False
    return True
