"""Clients that are sent to the bucket for large files, and those that are not."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from administering import Machine
from lab import Lab
from seaweed import Bucket, environment
from server import Answer, Server, settings_of

pytestmark = pytest.mark.s3


class KeptDirectory:
    """A server with the caches `team`, public, and `secret`; the closure was pushed to both."""

    def __init__(self, server: Server, machine: Machine, lab: Lab) -> None:
        self.server = server
        self.lab = lab
        self.token = machine.do(
            "token", "create", f"ci-{time.time_ns()}", "--cache", "*", "--allow", "read,push"
        ).strip()
        for cache in ("team", "secret"):
            url = f"http://x:{self.token}@127.0.0.1:{server.port}/{cache}/push?compression=zstd"
            lab.nix("copy", "--to", url, lab.full(lab.closure.input0))

    def nar(self, cache: str) -> str:
        """The URL of the NAR, below that of the server."""
        answer = self.get(f"/{cache}/{self.lab.closure.input0.hash_part}.narinfo")
        line = next(line for line in answer.body.decode().splitlines() if line.startswith("URL: "))
        return f"/{cache}/{line.removeprefix('URL: ')}"

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.server.request(method, path, {"Authorization": f"Bearer {self.token}", **named})


Start = Callable[..., AbstractContextManager[KeptDirectory]]


@pytest.fixture
def keeping(daemon: Lab, bucket: Bucket, machine: Machine, tmp_path: Path) -> Start:
    @contextmanager
    def start(bucket: Bucket = bucket, **storage: object) -> Iterator[KeptDirectory]:
        settings = settings_of(daemon) | {
            "caches": {"team": {"public": True}, "secret": {}, "here": {"redirect": False}},
            "storage": {"url": bucket.url("kept"), "redirect_from": 0, **storage},
        }
        with Server(tmp_path, daemon.env | environment(), settings) as server:
            yield KeptDirectory(server, machine, daemon)

    return start


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def test_a_client_of_a_private_cache_gets_a_signed_url_that_gives_the_same_bytes(
    keeping: Start, bucket: Bucket
) -> None:
    endpoint = bucket.endpoint.replace("127.0.0.1", "localhost")
    with keeping(public_endpoint=endpoint) as kept:
        nar = kept.nar("secret")
        answer = kept.get(nar)
        assert (answer.status, answer.headers["Cache-Control"]) == (302, "no-store")
        location = answer.headers["Location"]
        assert location.startswith(f"{endpoint}/{bucket.name}/kept/nar/")
        assert "X-Amz-Signature=" in location
        here = kept.get(nar, Range="bytes=0-", If_Range='"none of it"')
        assert here.status == 200
        assert fetch(location) == here.body
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(location.partition("?")[0])
        with refused.value as error:
            assert error.code == 403


def test_what_is_asked_about_the_file_is_answered_here(keeping: Start, bucket: Bucket) -> None:
    with keeping(public_endpoint=bucket.endpoint.replace("127.0.0.1", "localhost")) as kept:
        nar = kept.nar("secret")
        head = kept.get(nar, "HEAD")
        assert head.status == 200
        assert int(head.headers["Content-Length"]) == len(fetch(kept.get(nar).headers["Location"]))
        assert kept.get(nar, If_None_Match=head.headers["ETag"]).status == 304


def test_a_client_of_a_public_cache_is_sent_to_the_address_that_everybody_may_read(
    keeping: Start, public_bucket: Bucket
) -> None:
    address = f"{public_bucket.public}/kept".replace("127.0.0.1", "localhost")
    with keeping(public_bucket, public_url=address) as kept:
        location = kept.get(kept.nar("team")).headers["Location"]
        assert location.startswith(f"{address}/nar/")
        assert not urlsplit(location).query
        from_here = kept.get(kept.nar("secret"))
        assert from_here.status == 200, "a private cache has no such address"
        assert fetch(location) == from_here.body


def test_nobody_is_sent_to_the_host_that_the_cache_is_on_with_the_password_that_is_for_it(
    keeping: Start, bucket: Bucket
) -> None:
    """libcurl sends the password of a netrc to every port of a host: the bucket would see a client's token."""
    with keeping(public_endpoint=bucket.endpoint) as kept:
        assert kept.get(kept.nar("secret")).status == 200
        assert kept.get(kept.nar("secret"), Host=f"127.0.0.1.:{kept.server.port}").status == 200


@pytest.mark.parametrize("host", ["[::1", "local host", "x@localhost", "", "localhost:port", "%6cocalhost"])
def test_a_client_that_names_no_host_is_sent_nowhere_that_this_server_may_be(
    keeping: Start, bucket: Bucket, host: str
) -> None:
    """What stands for such a name is that of this machine."""
    with keeping(public_endpoint=bucket.endpoint.replace("127.0.0.1", "localhost")) as kept:
        assert kept.get(kept.nar("secret"), Host=host).status == 200


def test_small_files_and_caches_that_do_not_want_it_are_sent_from_here(
    keeping: Start, bucket: Bucket, daemon: Lab
) -> None:
    endpoint = bucket.endpoint.replace("127.0.0.1", "localhost")
    with keeping(public_endpoint=endpoint, redirect_from="1 GiB") as kept:
        assert kept.get(kept.nar("secret")).status == 200
    with keeping(public_endpoint=endpoint) as kept:
        url = f"http://x:{kept.token}@127.0.0.1:{kept.server.port}/here/push?compression=zstd"
        daemon.nix("copy", "--to", url, daemon.full(daemon.closure.input0))
        assert kept.get(kept.nar("here")).status == 200
        assert kept.get(kept.nar("secret")).status == 302


def test_stock_nix_follows(keeping: Start, bucket: Bucket, daemon: Lab) -> None:
    with keeping(public_endpoint=bucket.endpoint.replace("127.0.0.1", "localhost")) as kept:
        client = daemon.client("client")
        url = f"http://x:{kept.token}@127.0.0.1:{kept.server.port}/secret"
        options = ("--option", "substituters", url, "--option", "require-sigs", "false")
        client.nix_store("--realise", daemon.full(daemon.closure.input0), "--max-jobs", "0", *options)
        dumped = client.run("nix-store", "--dump", str(client.real(daemon.closure.input0))).stdout
        assert dumped == daemon.dump(daemon.closure.input0)
