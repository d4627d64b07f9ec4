"""What the import of the web framework costs a server."""

import os
import subprocess
import sys
from pathlib import Path

from certificates import make_certificate

CERTIFICATES = """
import os
from harmonia_py.server.framework import without_client
without_client()
import aiohttp
aiohttp.ClientSession
import ssl
print(aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"])
print(ssl.create_default_context().cert_store_stats()["x509"])
print("SSL_CERT_DIR" in os.environ)
"""
CLIENT = """
import sys
from harmonia_py.server.framework import without_client
without_client()
import harmonia_py.server.serve
print("aiohttp.client" in sys.modules)
import harmonia_py.upstream.client
import aiohttp
from aiohttp.client import ClientSession
print(aiohttp.ClientSession is ClientSession, type(aiohttp).__name__, bool(aiohttp.__version__), hasattr(aiohttp, "x"))
"""
AFTERWARDS = """
import aiohttp
from harmonia_py.server.framework import without_client
without_client()
print(type(aiohttp).__name__, aiohttp.ClientSession.__name__)
"""


def _printed(program: str, environment: dict[str, str] | None = None) -> list[str]:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_the_certificates_of_the_machine_are_read_when_they_are_needed_and_not_before(tmp_path: Path) -> None:
    """Each start read them twice, for a client that a server of the local store does not have."""
    environment = {name: value for name, value in os.environ.items() if name != "SSL_CERT_DIR"}
    environment["SSL_CERT_FILE"] = str(make_certificate(tmp_path, "one").chain)
    assert _printed(CERTIFICATES, environment) == ["0", "1", "False"]


def test_the_client_of_the_framework_is_imported_for_a_mirror_and_for_nothing_else() -> None:
    """A server of the local store imported it as well: a tenth of its start."""
    assert _printed(CLIENT) == ["False", "True", "module", "True", "False"]


def test_a_framework_that_is_imported_already_stays_what_it_is() -> None:
    assert _printed(AFTERWARDS) == ["module", "ClientSession"]
