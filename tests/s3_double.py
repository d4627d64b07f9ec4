"""A server of S3 in memory that is stricter than the real ones, and answers wrongly when a test says so.

    with S3Double() as double:
        double.settings("prefix")                   # `S3Settings`; double.url("prefix") for `[storage] url`
        double.objects                              # key -> Object(data, headers)
        double.seen                                 # ["PUT kept/nar/x", …] so far
        double.fault("GET", "nar/", Fault.CUT, times=2)
        double.weather = Weather(Random(1), share=0.1)  # one request of ten fails, in any way

It refuses what some server somewhere refuses: a body whose SHA-256 is not the one that was signed, headers `x-amz-*`
that are not signed, a deletion of many without `Content-MD5`, parts of different sizes, or below five mebibytes. It
compresses XML for clients that say they take it so, as proxies do.
"""

import base64
import gzip
import hashlib
import re
import secrets
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from harmonia_py.storage.s3.settings import S3Credentials, S3Settings

BUCKET: Final = "double"
_ACCESS_KEY: Final = "tests"
_SECRET_KEY: Final = "secret-of-the-tests"
_LEAST_PART: Final = 5 * 1024 * 1024
_EMPTY: Final = "UNSIGNED-PAYLOAD"
_SLOW_SECONDS: Final = 0.5
_SLOW_PARTS: Final = 5


def environment() -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": _ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": _SECRET_KEY}


def credentials_file(directory: Path) -> Path:
    """A file with them for `[storage] credentials_file`, in this directory."""
    file = directory / "credentials"
    file.touch(0o600)
    file.write_text("[default]\n" + "".join(f"{name.lower()} = {word}\n" for name, word in environment().items()))
    return file


class Fault(Enum):
    """What goes wrong with a request."""

    ERROR = auto()
    """500, and nothing is done."""
    SLOW_DOWN = auto()
    """503, and nothing is done."""
    CUT = auto()
    """The body of the answer ends in the middle, and the connection with it."""
    LOST = auto()
    """It is done, and the connection ends before the answer."""
    SILENT = auto()
    """Nothing is done, and nothing is said, until the client has gone."""
    ERROR_IN_200 = auto()
    """200, with an error in the body, and nothing is done."""
    NO_BUCKET = auto()
    """404, because the bucket is not there."""
    FOREIGN_404 = auto()
    """404, with the page of a proxy that knows nothing of buckets."""
    EXPIRED = auto()
    """400, because the key that has signed it is good no longer, and nothing is done."""
    SLOW = auto()
    """It is done, and the answer comes after half a second, its body in parts over another half."""
    STALL = auto()
    """After half of the body nothing more is sent, until the client has gone."""
    OTHER_RANGE = auto()
    """206 with as many bytes as were asked for, but from the first byte of the object on, as the answer says."""
    NO_CONDITION = auto()
    """It is done, and `If-Match` and `If-None-Match` are ignored."""
    NOT_IMPLEMENTED = auto()
    """501, because of a header that the server does not know, and nothing is done."""
    BAD_REQUEST = auto()
    """400, because of such a header."""
    NOT_ALLOWED = auto()
    """405, because of such a header."""
    FORBIDDEN = auto()
    """403, because a policy forbids it, and nothing is done."""


_REFUSALS: Final = {
    Fault.EXPIRED: (400, "ExpiredToken"),
    Fault.NOT_IMPLEMENTED: (501, "NotImplemented"),
    Fault.BAD_REQUEST: (400, "InvalidArgument"),
    Fault.NOT_ALLOWED: (405, "MethodNotAllowed"),
    Fault.FORBIDDEN: (403, "AccessDenied"),
}


@dataclass(frozen=True, slots=True)
class Weather:
    """Faults that come by themselves: of all requests this share fails, in one of these ways."""

    random: Random
    share: float
    faults: tuple[Fault, ...] = (Fault.ERROR, Fault.SLOW_DOWN, Fault.CUT, Fault.LOST, Fault.SLOW)

    def fault(self) -> Fault | None:
        """What becomes of the next request."""
        return self.random.choice(self.faults) if self.random.random() < self.share else None


@dataclass
class Object:
    data: bytes
    headers: dict[str, str]
    changed: datetime = field(default_factory=lambda: datetime.now(UTC))
    etag: str = ""

    def __post_init__(self) -> None:
        self.etag = _etag(self.data)


@dataclass
class Upload:
    """An upload in parts: the object that it would become, and the parts that are here by their numbers."""

    key: str
    headers: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class _Planned:
    method: str
    part: str
    fault: Fault
    times: int


_Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what is wrong here. A client that has had enough leaves, and that is no fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class S3Double:
    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, Upload] = {}
        self.seen: list[str] = []
        self.weather: Weather | None = None
        self.faults = Counter[Fault]()
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()
        self._gone = threading.Event()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        # Python waits for other threads before it calls what `atexit` has, which ends the double of a whole run.
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, prefix: str = "") -> str:
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}"

    def settings(self, prefix: str = "", **more: Any) -> S3Settings:
        credentials = S3Credentials(access_key_id=_ACCESS_KEY, secret_access_key=_SECRET_KEY)
        return S3Settings(bucket=BUCKET, prefix=prefix, endpoint=self.endpoint, credentials=credentials, **more)

    def fault(self, method: str, part: str, fault: Fault, *, times: int = 1) -> None:
        """Answer the next requests of this method whose key or query contains `part` in this way."""
        with self._lock:
            self._planned.append(_Planned(method, part, fault, times))

    def mend(self) -> None:
        """Answer rightly from now on, whatever was planned."""
        with self._lock:
            self._planned.clear()

    def faults_left(self) -> int:
        with self._lock:
            return sum(planned.times for planned in self._planned)

    def take_fault(self, method: str, target: str) -> Fault | None:
        with self._lock:
            self.seen.append(f"{method} {target}")
            for planned in self._planned:
                if planned.times and planned.method == method and planned.part in target:
                    planned.times -= 1
                    return planned.fault
            fault = self.weather.fault() if self.weather is not None else None
            if fault is not None:
                self.faults[fault] += 1
            return fault

    def wait_until_gone(self, connection: socket.socket) -> None:
        connection.settimeout(0.1)
        while not self._gone.is_set():
            try:
                if not connection.recv(65536):
                    return
            except TimeoutError:
                continue
            except OSError:
                return


class _Handler(BaseHTTPRequestHandler):
    owner: ClassVar[S3Double]
    protocol_version = "HTTP/1.1"
    # Header and body in one segment, or else each answer waits for an acknowledgement.
    wbufsize = -1

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name there
        pass

    def do_GET(self) -> None:
        self._answer()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815  # their names there

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        _, bucket, *rest = parts.path.split("/", 2)
        self._key = unquote(rest[0]) if rest else ""
        self._query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        target = self._key + (f"?{parts.query}" if parts.query else "")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.owner.take_fault(self.command, target)
        if fault is Fault.SILENT:
            self.owner.wait_until_gone(self.connection)
            self.close_connection = True
            return
        try:
            answer = self._answer_to(bucket, body, fault)
        except Refused as refused:
            answer = (refused.status, {}, _error(refused.code))
        if fault is Fault.LOST:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(*answer, fault)

    def _answer_to(self, bucket: str, body: bytes, fault: Fault | None) -> _Answer:
        if bucket != BUCKET or fault is Fault.NO_BUCKET:
            raise Refused(404, "NoSuchBucket")
        if fault is Fault.FOREIGN_404:
            return 404, {"Content-Type": "text/html"}, b"<html><h1>404 Not Found</h1></html>"
        if fault in (Fault.ERROR, Fault.SLOW_DOWN):
            raise Refused(500 if fault is Fault.ERROR else 503, "InternalError")
        if fault in _REFUSALS:
            raise Refused(*_REFUSALS[fault])
        if fault is Fault.ERROR_IN_200:
            return 200, {}, _error("InternalError")
        self._check(body)
        if fault is Fault.OTHER_RANGE:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.headers.replace_header("Range", f"bytes=0-{last - first}")
        if fault is Fault.NO_CONDITION:
            del self.headers["If-Match"], self.headers["If-None-Match"]
        return self._do(body)

    def _send(self, status: int, headers: Mapping[str, str], data: bytes, fault: Fault | None) -> None:
        is_slow, is_half = fault is Fault.SLOW, fault in (Fault.CUT, Fault.STALL)
        if is_slow:
            time.sleep(_SLOW_SECONDS)
        if data.startswith(b"<") and "gzip" in self.headers.get("Accept-Encoding", ""):
            headers, data = {**headers, "Content-Encoding": "gzip"}, gzip.compress(data)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self._write(data[: len(data) // 2] if is_half else data, slowly=is_slow)
        self.wfile.flush()
        if is_half:
            self.close_connection = True
            if fault is Fault.STALL:
                self.owner.wait_until_gone(self.connection)
            self.connection.shutdown(socket.SHUT_RDWR)

    def _write(self, data: bytes, *, slowly: bool) -> None:
        if not slowly:
            self.wfile.write(data)
            return
        size = max(1, len(data) // _SLOW_PARTS)
        for start in range(0, len(data), size):
            time.sleep(_SLOW_SECONDS / _SLOW_PARTS)
            self.wfile.write(data[start : start + size])
            self.wfile.flush()

    def _check(self, body: bytes) -> None:
        """Refuse what is not signed, or not what was signed."""
        if "X-Amz-Signature" in self._query:
            return
        found = re.search(r"SignedHeaders=([^,]*), Signature=[0-9a-f]{64}", self.headers.get("Authorization", ""))
        if found is None:
            raise Refused(403, "AccessDenied")
        signed = set(found[1].split(";"))
        sent = {name.lower() for name in self.headers if name.lower().startswith("x-amz-")} | {"host"}
        if not sent <= signed:
            raise Refused(403, "AccessDenied")
        digest = self.headers.get("x-amz-content-sha256", "")
        if digest != _EMPTY and digest != hashlib.sha256(body).hexdigest():
            raise Refused(400, "XAmzContentSHA256Mismatch")

    def _do(self, body: bytes) -> _Answer:
        if self.command == "GET" and "list-type" in self._query:
            return self._list()
        if self.command == "POST" and "delete" in self._query:
            return self._delete_many(body)
        if "uploads" in self._query or "uploadId" in self._query:
            return self._multipart(body)
        if self.command in ("GET", "HEAD"):
            return self._get()
        if self.command == "PUT":
            return self._put(body)
        self.owner.objects.pop(self._key, None)
        return 204, {}, b""

    def _get(self) -> _Answer:
        found = self.owner.objects.get(self._key)
        if found is None:
            raise Refused(404, "NoSuchKey")
        if self.headers.get("If-Match", found.etag) != found.etag:
            raise Refused(412, "PreconditionFailed")
        headers = {**found.headers, "ETag": found.etag, "Last-Modified": format_datetime(found.changed, usegmt=True)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return 200, {**headers, "Content-Length": str(len(found.data))}, found.data
        start, end = int(wanted[1]), min(int(wanted[2] or len(found.data)), len(found.data) - 1)
        if start >= len(found.data):
            raise Refused(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end}/{len(found.data)}"
        return 206, headers, found.data[start : end + 1]

    def _put(self, body: bytes) -> _Answer:
        if "x-amz-copy-source" in self.headers:
            found = self._copied()
            made = self.owner.objects[self._key] = Object(found.data, found.headers)
            return 200, {}, f"<CopyObjectResult><ETag>{escape(made.etag)}</ETag></CopyObjectResult>".encode()
        made = Object(body, self._kept_headers())
        if self.headers.get("If-None-Match") == "*":
            if self.owner.objects.setdefault(self._key, made) is not made:
                raise Refused(412, "PreconditionFailed")
        else:
            self.owner.objects[self._key] = made
        return 200, {"ETag": made.etag}, b""

    def _copied(self) -> Object:
        """The object that is to be copied."""
        source = unquote(self.headers["x-amz-copy-source"]).removeprefix("/").removeprefix(f"{BUCKET}/")
        found = self.owner.objects.get(source)
        if found is None:
            raise Refused(404, "NoSuchKey")
        if self.headers.get("x-amz-copy-source-if-match", found.etag) != found.etag:
            raise Refused(412, "PreconditionFailed")
        return found

    def _kept_headers(self) -> dict[str, str]:
        kept = ("content-type", "content-encoding")
        return {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")} | {
            name: value for name, value in self.headers.items() if name.lower() in kept
        }

    def _multipart(self, body: bytes) -> _Answer:
        uploads = self.owner.uploads
        if "uploads" in self._query:
            if self.command == "GET":
                return self._list_uploads()
            name = secrets.token_hex(8)
            uploads[name] = Upload(self._key, self._kept_headers())
            text = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            return 200, {}, text.encode()
        name = self._query["uploadId"]
        upload = uploads.get(name)
        if upload is None or upload.key != self._key:
            raise Refused(404, "NoSuchUpload")
        if self.command == "PUT":
            return self._put_part(upload, body)
        if self.command == "DELETE":
            del uploads[name]
            return 204, {}, b""
        parts = self._parts_named(upload, body)
        if len({len(data) for data in parts[:-1]}) > 1 or any(len(data) < _LEAST_PART for data in parts[:-1]):
            raise Refused(400, "InvalidPart")
        del uploads[name]
        made = self.owner.objects[self._key] = Object(b"".join(parts), upload.headers)
        text = f"<CompleteMultipartUploadResult><ETag>{escape(made.etag)}</ETag></CompleteMultipartUploadResult>"
        return 200, {}, text.encode()

    def _put_part(self, upload: Upload, body: bytes) -> _Answer:
        number, is_copy = int(self._query["partNumber"]), "x-amz-copy-source" in self.headers
        if is_copy:
            start, end = map(int, self.headers["x-amz-copy-source-range"].removeprefix("bytes=").split("-"))
            body = self._copied().data[start : end + 1]
        upload.parts[number] = body
        etag = _etag(body)
        text = f"<CopyPartResult><ETag>{escape(etag)}</ETag></CopyPartResult>" if is_copy else ""
        return 200, {"ETag": etag}, text.encode()

    def _parts_named(self, upload: Upload, body: bytes) -> list[bytes]:
        """The parts that the body names, each by its number and its tag."""
        named = [one for one in ET.fromstring(body).iter() if one.tag.rpartition("}")[2] == "Part"]
        found = [{one.tag.rpartition("}")[2]: one.text or "" for one in part} for part in named]
        numbers = [int(one["PartNumber"]) for one in found]
        if not numbers or numbers != sorted(set(numbers)):
            raise Refused(400, "InvalidPartOrder")
        for number, etag in ((int(one["PartNumber"]), one["ETag"].strip('"')) for one in found):
            if number not in upload.parts or _etag(upload.parts[number]).strip('"') != etag:
                raise Refused(400, "InvalidPart")
        return [upload.parts[number] for number in numbers]

    def _list_uploads(self) -> _Answer:
        prefix, after = self._query.get("prefix", ""), self._query.get("upload-id-marker", "")
        most = int(self._query.get("max-uploads", 1000))
        names = sorted(name for name, one in self.owner.uploads.items() if one.key.startswith(prefix) and name > after)
        page = names[:most]
        entries = "".join(
            f"<Upload><Key>{escape(one.key)}</Key><UploadId>{name}</UploadId>"
            f"<Initiated>{one.begun.isoformat().replace('+00:00', 'Z')}</Initiated></Upload>"
            for name, one in ((name, self.owner.uploads[name]) for name in page)
        )
        is_cut = len(names) > len(page)
        marker = f"<NextUploadIdMarker>{page[-1]}</NextUploadIdMarker>" if is_cut else ""
        text = f"<ListMultipartUploadsResult><IsTruncated>{str(is_cut).lower()}</IsTruncated>{marker}{entries}"
        return 200, {}, f"{text}</ListMultipartUploadsResult>".encode()

    def _delete_many(self, body: bytes) -> _Answer:
        if self.headers.get("Content-MD5") != base64.b64encode(hashlib.md5(body).digest()).decode():
            raise Refused(400, "InvalidDigest")
        keys = [one.text or "" for one in ET.fromstring(body).iter() if one.tag.rpartition("}")[2] == "Key"]
        for key in keys:
            self.owner.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return 200, {}, f"<DeleteResult>{deleted}</DeleteResult>".encode()

    def _list(self) -> _Answer:
        prefix = self._query.get("prefix", "")
        after = max(self._query.get("start-after", ""), self._query.get("continuation-token", ""))
        most = int(self._query.get("max-keys", 1000))
        names = sorted(key for key in self.owner.objects if key.startswith(prefix) and key > after)
        page = names[:most]
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(found.data)}</Size>"
            f"<ETag>{escape(found.etag)}</ETag>"
            f"<LastModified>{found.changed.isoformat().replace('+00:00', 'Z')}</LastModified></Contents>"
            for name, found in ((name, self.owner.objects[name]) for name in page)
        )
        more = len(names) > len(page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{contents}</ListBucketResult>"
        return 200, {}, text.encode()


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>as the test says</Message></Error>".encode()
