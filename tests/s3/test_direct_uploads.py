"""Large files that stock Nix sends straight to the bucket: verified there, and out of reach of their URL by then."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import obstore
import pytest
from administering import Machine
from lab import Lab
from pushed_paths import GLIBC, REFERENCE, pushed
from seaweed import Bucket, environment
from server import Answer, Server, settings_of
from trees import File

from harmonia_py.nix.store_path import StoreDir

pytestmark = pytest.mark.s3

NARINFO: Final = f"{REFERENCE.hash_part}.narinfo"
OTHER: Final = pushed(REFERENCE, File(b"another one"))


class Direct:
    """A server whose clients send all that waits for `100 Continue` to the bucket."""

    def __init__(self, server: Server, machine: Machine, bucket: Bucket, lab: Lab) -> None:
        self.server = server
        self.narinfo = GLIBC.claim.format(StoreDir(lab.store_dir))
        self.bucket = bucket
        self.token = self._token(machine, "ci")
        self.other = self._token(machine, "other")

    def _token(self, machine: Machine, name: str) -> str:
        return machine.do("token", "create", name, "--cache", "team", "--allow", "read,push").strip()

    def ask(self, path: str, size: int, *, token: str = "") -> tuple[int, str]:
        """Status and Location of the answer to the header of a PUT below the push URL."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)) as connection:
            connection.putrequest("PUT", f"/team/push/{path}")
            connection.putheader("Authorization", f"Bearer {token or self.token}")
            connection.putheader("Content-Length", str(size))
            connection.putheader("Expect", "100-continue")
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Location", "")

    def put(self, path: str, data: bytes, token: str = "") -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)) as connection:
            connection.request("PUT", f"/team/push/{path}", data, {"Authorization": f"Bearer {token or self.token}"})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def read(self, path: str) -> bytes:
        return self.server.get(f"/team/{path}", {"Authorization": f"Bearer {self.token}"}).body

    def send(self, path: str, data: bytes) -> str:
        """Send a file past the server, as Nix does; the URL that it was sent to."""
        status, url = self.ask(path, len(data))
        assert status == 307, "sent past the server"
        upload(url, data)
        return url

    def kept(self) -> list[str]:
        return [key.removeprefix("kept/") for key in self.bucket.all_keys() if key != "kept/.catalog"]


def upload(url: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
    sent = {"Content-Type": "application/x-nix-nar"} | dict(headers or {})
    with urllib.request.urlopen(urllib.request.Request(url, data, sent, method="PUT"), timeout=30) as answer:
        assert answer.status == 200


@pytest.fixture
def direct(daemon: Lab, bucket: Bucket, machine: Machine, tmp_path: Path) -> Iterator[Direct]:
    storage = {
        "url": bucket.url("kept"),
        "public_endpoint": bucket.endpoint.replace("127.0.0.1", "localhost"),
        "redirect_from": "never",
        "redirect_uploads_from": 0,
    }
    settings = settings_of(daemon) | {"caches": {"team": {}}, "storage": storage}
    with Server(tmp_path, daemon.env | environment(), settings) as server:
        yield Direct(server, machine, bucket, daemon)


def test_stock_nix_sends_files_past_the_server_and_they_are_served(direct: Direct, daemon: Lab) -> None:
    url = f"http://x:{direct.token}@127.0.0.1:{direct.server.port}/team/push?compression=zstd"
    daemon.nix("copy", "--to", url, daemon.full(daemon.closure.top))
    direct.server.until(lambda: " 307 " in direct.server.output())  # the access log is written in batches
    assert not [key for key in direct.kept() if key.startswith(".")], "nothing pending is left"

    client = daemon.client("client")
    pull = f"http://x:{direct.token}@127.0.0.1:{direct.server.port}/team"
    options = ("--option", "substituters", pull, "--option", "require-sigs", "false")
    client.nix_store("--realise", daemon.full(daemon.closure.top), "--max-jobs", "0", *options)
    assert client.run("nix-store", "--dump", str(client.real(daemon.closure.top))).stdout == daemon.dump(
        daemon.closure.top
    )


def test_a_file_is_not_there_before_its_narinfo_has_come(direct: Direct) -> None:
    direct.send(GLIBC.claim.url, GLIBC.data)
    assert GLIBC.claim.url not in direct.kept()
    assert direct.put(NARINFO, direct.narinfo).status == 200
    assert GLIBC.claim.url in direct.kept()
    assert direct.read(direct.read(NARINFO).decode().partition("URL: ")[2].partition("\n")[0]) == GLIBC.data


def test_a_url_that_is_still_good_overwrites_nothing_that_is_published(direct: Direct) -> None:
    url = direct.send(GLIBC.claim.url, GLIBC.data)
    assert direct.put(NARINFO, direct.narinfo).status == 200
    upload(url, b"something else")
    assert bytes(obstore.get(direct.bucket.store("kept"), GLIBC.claim.url).bytes()) == GLIBC.data
    assert direct.put(NARINFO, direct.narinfo).status == 200
    assert bytes(obstore.get(direct.bucket.store("kept"), GLIBC.claim.url).bytes()) == GLIBC.data


@pytest.mark.parametrize("sent", [b"", b"short", OTHER.data])
def test_other_bytes_than_those_of_the_url_are_refused_and_forgotten(direct: Direct, sent: bytes) -> None:
    direct.send(GLIBC.claim.url, sent)
    assert direct.put(NARINFO, direct.narinfo).status == 400
    assert not direct.kept(), "neither kept nor pending"
    assert direct.put(NARINFO, direct.narinfo).status == 409, "the file is not here"
    direct.send(GLIBC.claim.url, GLIBC.data)
    assert direct.put(NARINFO, direct.narinfo).status == 200


@pytest.mark.parametrize(
    "header",
    [
        {"Content-Encoding": "br"},
        {"Content-Type": "text/html"},
        {"Cache-Control": "public, max-age=31536000, immutable"},
        {"Content-Disposition": "attachment; filename=run-me.exe"},
    ],
)
def test_headers_that_a_client_chose_never_reach_the_readers_of_its_file(
    direct: Direct, header: dict[str, str]
) -> None:
    """A client sent right bytes with `Content-Encoding: br`: readers of all caches got the header too, and failed."""
    _, url = direct.ask(GLIBC.claim.url, len(GLIBC.data))
    upload(url, GLIBC.data, header)
    answer = direct.put(NARINFO, direct.narinfo)
    assert answer.status == 400
    assert next(iter(header)).encode() in answer.body
    assert not direct.kept(), "neither kept nor pending"
    direct.send(GLIBC.claim.url, GLIBC.data)
    assert direct.put(NARINFO, direct.narinfo).status == 200


def test_what_one_principal_has_sent_is_not_there_for_another(direct: Direct) -> None:
    direct.send(GLIBC.claim.url, GLIBC.data)
    assert direct.put(NARINFO, direct.narinfo, direct.other).status == 409
    assert direct.put(NARINFO, direct.narinfo).status == 200


def test_the_url_is_good_for_nothing_but_this_one_upload(direct: Direct) -> None:
    _, url = direct.ask(GLIBC.claim.url, len(GLIBC.data))
    for changed in (url.replace("/.pending/", "/nar/"), url.replace("/kept/.pending/", "/kept/.pending/x")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            upload(changed, GLIBC.data)
        with refused.value as answer:
            assert answer.code == 403
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=30)
    with refused.value as answer:
        assert answer.code == 403


def test_a_client_that_does_not_wait_is_not_sent_away(direct: Direct) -> None:
    """Nix up to 2.28 cannot begin a body again that it has begun to send: it would hang."""
    assert direct.put(GLIBC.claim.url, GLIBC.data).status == 200
    assert GLIBC.claim.url in direct.kept()


def test_what_may_not_be_pushed_gets_no_url(direct: Direct) -> None:
    assert direct.ask(GLIBC.claim.url, len(GLIBC.data), token="hpy_none_none")[0] == 401
    assert direct.ask("nar/../x.nar", 10)[0] == 400
