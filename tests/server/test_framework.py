"""What the import of the web framework costs a server."""

import os
import subprocess
import sys
from pathlib import Path

from certificates import make_certificate

PROGRAM = """
import os
from harmonia_py.server.framework import without_certificates
with without_certificates():
    import aiohttp.connector
import ssl
print(aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"])
print(ssl.create_default_context().cert_store_stats()["x509"])
print("SSL_CERT_DIR" in os.environ)
"""


def test_the_certificates_of_the_machine_are_read_when_they_are_needed_and_not_before(tmp_path: Path) -> None:
    """Each start read them twice, for a client that a server of the local store does not have."""
    environment = {name: value for name, value in os.environ.items() if name != "SSL_CERT_DIR"}
    environment["SSL_CERT_FILE"] = str(make_certificate(tmp_path, "one").chain)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["0", "1", "False"]
