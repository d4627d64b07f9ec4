"""Requests that a description of URLs makes possible, and those that it does not.

    fuzzer = Fuzzer(operations, known)          # known: values that are there, by the name of the parameter
    fuzzer.batch(random, 32)                    # Requests that may be sent in one go
    fuzzer.garbled(random)                      # a header that is whole, with anything in it: one answer, or the end
    fuzzer.cut(random)                          # bytes that may be no request, and may not be whole

Values come from the patterns in the description, made by Hypothesis once; everything else is chosen by `random`, so
that the same seed makes the same requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from described import Operation, Parameter
from hypothesis import HealthCheck, Phase, given, settings, strategies
from hypothesis import seed as hypothesis_seed

POOL_SIZE: Final = 60
# How often an operation is asked for; those that are not here: 2. A page takes a hundred times as long as a narinfo.
WEIGHTS: Final = {"narinfo": 12, "nar": 10, "serve": 10, "ls": 5, "log": 5, "metrics": 0.1, "home": 0.5, "path": 0.5}

# What breaks out of somewhere, if anything does: of folders, of URLs, of pages, of headers, of text, of C strings.
PIECES: Final = (
    *(b"..", b"../", b"/../../..", b"%2e%2e", b"%2E%2E%2F", b"..%2f..%2fetc%2fpasswd", b"%252e%252e%252f"),
    *(b"%c0%ae", b".", b"/", b"//", b"%2f", b"\\", b"%5c", b"%00", b"%0a", b"%0d%0aFuzz:%20x"),
    *(b"%e5%98%8a%e5%98%8dFuzz:x", b"%7f", b"%1b[2J", b"%ff", b"%80", b"%ed%a0%80", b"%f4%90%80%80", b"%C3%A9"),
    *(b"%", b"%%", b"%g0", b"%u002e", b"%2", b"%25", b"<fuzz>", b"%3Cfuzz%3E", b"%22%3E%3Cfuzz%3E", b"'", b'"'),
    *(b"%27", b"&lt;", b"{{7*7}}", b"${x}", b"$(id)", b"`id`", b"?", b"#", b"&", b"=", b";", b"+", b"!", b"@"),
    *(b":", b"*", b"~", b"[", b"]", b"{", b"}", b"|", b"^", b",", b".narinfo", b".ls", b".nar", b".nar.zst"),
    *(b".doi", b".drv", b".debug", b"/index.html", b"/proc/self/environ", b"json", b"?json", b"?hash="),
    *(b"&hash=x", b"NaN", b"-1", b"0x10", b"1e9", b"A" * 33, b"0" * 32, b"z" * 255, b"a" * 3000),
)  # fmt: skip
HEADER_PIECES: Final = (
    *("bytes=0-0", "bytes=-1", "bytes=5-1", "bytes=99999999999999999999-", "bytes=-0", "bytes=0-0,2-3"),
    *("lines=1-2", "bytes=", "*", '"', 'W/"x"', '"x", ' * 99, "Wed, 21 Oct 2015 07:28:00 GMT", "yesterday"),
    *("gzip;q=nan", "*;q=1e999", "zstd;q=-1", "Basic !!!", "Basic Og==", "Bearer ", "Bearer x", "Digest x"),
    *("<fuzz>", '"><fuzz>', "evil.example", "a b", "[::1", "[::1]:99999", "https", "javascript", "//x"),
    *("../..", "1.2.3.4, 5.6.7.8", "unix", "for=<fuzz>;host=x", "x" * 2000, "", ",", ";", "=", "0"),
    "%0d%0aFuzz: x",
)  # fmt: skip
HEADER_NAMES: Final = (
    *("Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since"),
    *("Accept-Encoding", "Accept", "Authorization", "Cookie", "Referer", "User-Agent", "Origin"),
    *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix", "Forwarded"),
    *("X-Real-IP", "X-Original-URL", "X-HTTP-Method-Override", "Via", "TE", "Accept-Language"),
)  # fmt: skip
METHODS: Final = ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND")
GARBLED_METHODS: Final = (
    b"get",
    b"GE",
    b"BREW",
    b"CONNECT",
    b"PRI",
    b"TRACE",
    b"G\xffT",
    b"",
    b"GET\t",
    b" GET",
    b"A" * 9000,
)
GARBLED_VERSIONS: Final = (
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.2",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTP/",
    b"",
)
GARBLED_HEADERS: Final = (
    *(b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999"),
    *(b"Content-Length: 1\r\nContent-Length: 2", b"Content-Length: 0\r\nTransfer-Encoding: chunked"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: xchunked"),
    *(b"Expect: 100-continue", b"Expect: 200-ok", b"Host: \xff\xfe", b"Host: <fuzz>", b"Host: a\tb"),
    *(b"Host: x\r\nHost: y", b"X: \x00", b"X: \x7f", b"X: a\rb", b"X: a\nFuzz: x", b"\x00: x", b"X : y"),
    *(b" folded: x", b": x", b"X", b"X: " + b"y" * 20_000, b"Y" * 9000 + b": x", b"X: \xe9"),
    *(b"Range: bytes=\xff", b"Authorization: Basic \xff", b"Cookie: \x1b[2J"),
    b"Upgrade: websocket\r\nConnection: upgrade",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA",
    *(b"Connection: close, keep-alive", b"Connection: \xff", b"Connection: upgrade", b"\r\nX: y"),
    *(b"X: y\r\n" * 200, b"Content-Encoding: gzip"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """Attributes: `operation`, when every value is one that the description allows, so that the answer is as well."""

    data: bytes
    method: str
    operation: Operation | None


class Fuzzer:
    def __init__(self, operations: Mapping[str, Operation], known: Mapping[str, Sequence[str]]) -> None:
        self._operations = list(operations.values())
        self._weights = [WEIGHTS.get(operation.name, 2) for operation in self._operations]
        self._known = known
        parameters = {one for operation in self._operations for one in operation.parameters}
        self._pools = {one: _pool(one.pattern) for one in sorted(parameters, key=str)}

    def batch(self, random: Random, most: int) -> list[Request]:
        """Requests whose ends are where they seem to be, with ASCII that can be printed in their headers."""
        return [self._request(random) for _ in range(random.randint(1, most))]

    def garbled(self, random: Random) -> bytes:
        method = random.choice(GARBLED_METHODS) if random.random() < 0.2 else b"GET"
        version = random.choice(GARBLED_VERSIONS) if random.random() < 0.2 else b"HTTP/1.1"
        target = self._target(random, self._operation(random), changed=random.random() < 0.5)
        if random.random() < 0.2:
            target = random.choice(
                (b"*", b"http://x/health", b"x", b"", b"//x/", b"/\xff\xfe", b"/\x00", b"/\x7f", b"/" + b"a" * 9000)
            )
        headers = random.sample(GARBLED_HEADERS, random.randint(0, 3))
        return b"\r\n".join([b" ".join((method, target, version)), b"Host: x", *headers, b"", b""])

    def cut(self, random: Random) -> bytes:
        data = bytearray(random.choice((self.garbled, lambda r: self._request(r).data))(random))
        for _ in range(random.randint(0, 8)):
            place = random.randrange(len(data))
            data[place : place + random.randint(0, 2)] = random.randbytes(random.randint(0, 2))
            data = data or bytearray(b"G")
        return bytes(data[: random.randrange(len(data) + 1)] if random.random() < 0.7 else data)

    def _operation(self, random: Random) -> Operation:
        return random.choices(self._operations, self._weights)[0]

    def _request(self, random: Random) -> Request:
        operation = self._operation(random)
        changed = random.random() < 0.4
        target = self._target(random, operation, changed=changed)
        method = random.choices(("GET", "HEAD", random.choice(METHODS)), (80, 14, 6))[0]
        version, body = b"HTTP/1.1", b""
        headers = self._headers(random, operation)
        if random.random() < 0.15:
            headers += _more_headers(random)
            changed = True
        if random.random() < 0.02:
            version = b"HTTP/1.0"
        elif random.random() < 0.04:
            body = random.choice((b"", b"x", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(1000)))
            chunked = random.random() < 0.5
            headers.append(b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body))
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n" if chunked else body
        data = b"\r\n".join([b" ".join((method.encode(), target, version)), b"Host: x", *headers, b"", body])
        return Request(data, method, None if changed or method not in {"GET", "HEAD"} else operation)

    def _headers(self, random: Random, operation: Operation) -> list[bytes]:
        named = [one for one in operation.parameters if one.place == "header" and random.random() < 0.2]
        lines = [f"{parameter.name}: {self._value(random, parameter)}" for parameter in named]
        return [line.encode() for line in lines]

    def _target(self, random: Random, operation: Operation, *, changed: bool) -> bytes:
        path, query = operation.path.encode(), []
        for parameter in operation.parameters:
            if parameter.place == "header" or (parameter.place == "query" and random.random() < 0.5):
                continue
            value = _encoded(random, self._value(random, parameter), b"/" if parameter.slashes else b"")
            if changed:
                value = _mutated(random, value)
            if parameter.place == "path":
                path = path.replace(b"{%b}" % parameter.name.encode(), value)
            else:
                query.append(b"%b=%b" % (parameter.name.encode(), value))
        target = path + (b"?" + b"&".join(query) if query else b"")
        if changed and random.random() < 0.3:
            target = b"/" + _mutated(random, target[1:])
        return target[:7000]

    def _value(self, random: Random, parameter: Parameter) -> str:
        known = self._known.get(parameter.name)
        return random.choice(known if known and random.random() < 0.75 else self._pools[parameter])


def _more_headers(random: Random) -> list[bytes]:
    lines = []
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        value = random.choice(HEADER_PIECES) + random.choice(HEADER_PIECES) * (random.random() < 0.3)
        lines.append(f"{random.choice(HEADER_NAMES)}: {value[:3000]}".encode())
    return lines


def _pool(pattern: str | None) -> list[str]:
    """Texts that match, the same ones every time."""
    found: list[str] = []
    text = strategies.text(max_size=40) if pattern is None else strategies.from_regex(pattern, fullmatch=True)

    @hypothesis_seed(0)
    @settings(
        max_examples=POOL_SIZE,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(text)
    def collect(value: str) -> None:
        found.append(value)

    collect()
    return found


def _encoded(random: Random, value: str, safe: bytes) -> bytes:
    """As a URL has it: what must be is percent-encoded, and now and then what need not be."""
    share = random.choice((0.0, 0.0, 0.0, 0.1, 1.0))
    plain = safe + b"!~-._:=+"
    coded = [
        bytes((byte,)) if byte in safe or ((_is_alphanumeric(byte) or byte in plain) and random.random() >= share)
        else (b"%%%02x" if random.random() < 0.5 else b"%%%02X") % byte
        for byte in value.encode("utf-8", "surrogatepass")
    ]  # fmt: skip
    return b"".join(coded)


def _is_alphanumeric(byte: int) -> bool:
    return byte < 128 and chr(byte).isalnum()


def _mutated(random: Random, value: bytes) -> bytes:
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        place = random.randint(0, len(value))
        match random.randrange(5):
            case 0:
                value = value[:place]
            case 1:
                value = value[:place] + value[place + 1 :]
            case 2:
                value = value[:place] + random.choice(PIECES) + value[place + random.choice((0, 0, 1, 5)) :]
            case 3:
                value = value + random.choice(PIECES) + value[place:]
            case _:
                value = value.swapcase() if random.random() < 0.3 else value + value[-1:]
    return value[:6000]
