"""Certificates for `localhost` and 127.0.0.1, made by OpenSSL in a few milliseconds.

pair = make_certificate(directory, "one")   # Pair(chain, key): files; each vouches for itself
context = pair.client()                     # trusts it and no other
"""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pair:
    chain: Path
    key: Path

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.chain)


def make_certificate(directory: Path, name: str) -> Pair:
    pair = Pair(directory / f"{name}.pem", directory / f"{name}.key")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    files = ("-keyout", str(pair.key), "-out", str(pair.chain))
    subprocess.run(["openssl", "req", "-x509", *curve, *names, *files], check=True, capture_output=True, timeout=30)
    return pair
