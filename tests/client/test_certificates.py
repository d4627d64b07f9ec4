"""Servers that are known by the certificates of this machine, asked by the real command."""

import os
import subprocess
import sys
from pathlib import Path

from certificates import make_certificate
from issuer import Issuer, Reply


def test_a_command_trusts_the_certificates_of_the_machine_and_no_others(tmp_path: Path) -> None:
    """They are not read while commands are imported: what speaks TLS has to read them, or it trusts no server."""
    ours, other = (make_certificate(tmp_path, name) for name in ("ours", "other"))
    with Issuer(certificate=ours) as server:
        server.answers["/api/capabilities"] = Reply(body=b'{"principal": {"name": "token ci"}}')
        said = []
        for certificate in (ours, other):
            environment = os.environ | {
                "SSL_CERT_FILE": str(certificate.chain),
                "HOME": str(tmp_path),
                "XDG_CONFIG_HOME": str(tmp_path),
            }
            command = [sys.executable, "-m", "harmonia_py.cli", "login", server.url, "token"]
            done = subprocess.run(
                command, env=environment, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path
            )
            said.append((done.returncode, done.stderr))
    assert said[0] == (0, f"logged in to {server.url} as token ci\n")
    assert said[1][0] == 1
    assert "the server's certificate is not trusted" in said[1][1]
