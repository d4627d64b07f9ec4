"""The certificate that the server shows to clients: its host name, and for how long it is good."""

import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.errors import ConfigError
from harmonia_py.server.certificate import Certificate

_NAME: Final = "certificate"
_SOON_DAYS: Final = 14
_HANDSHAKES: Final = 4
_RENEW: Final = "renew it, and see that the server loads it (harmonia-py does when the file changes)"


def judge(certificate: Mapping[str, object], now: float) -> list[Finding]:
    """How long a certificate, as the ssl module describes it, is still good."""
    until = certificate.get("notAfter")
    if not isinstance(until, str):
        return []
    days = int((ssl.cert_time_to_seconds(until) - now) // 86400)
    if days >= _SOON_DAYS:
        return [Finding.ok(_NAME, f"good for {days} days")]
    return [Finding.warning(_NAME, f"good for {days} days only", _RENEW)]


def look_at(chain: Path, key: Path, host: str | None) -> list[Finding]:
    """The certificate in our own files; `host` is the name by which clients reach this server, where it is known."""
    try:
        ours = Certificate(chain, key)
    except ConfigError as error:
        return [Finding.failure(_NAME, str(error), "mend the files, their permissions, or their names")]
    findings = [Finding.ok(_NAME, f"{chain} and its key belong together")]
    try:
        shown = _shown_to_a_client(ours.context, chain, None)
    except ssl.SSLCertVerificationError as error:
        return [*findings, Finding.failure(_NAME, f"{chain}: {error.verify_message}", _RENEW)]
    findings += judge(shown, time.time())
    try:
        _shown_to_a_client(ours.context, chain, host)
    except ssl.SSLCertVerificationError:
        what = f"{chain}: is not for {host}, the name in base_url"
        findings.append(Finding.failure(_NAME, what, "get one for that name, or mend base_url"))
    return findings


def _shown_to_a_client(server: ssl.SSLContext, chain: Path, host: str | None) -> Mapping[str, object]:
    """The certificate as a client reads it that trusts exactly this one, after a handshake without any connection.

    Raises:
        ssl.SSLCertVerificationError: it is not good now, or not for `host`.
    """
    # The ssl module describes a certificate that the other end of a handshake has shown, and no other.
    client = ssl.create_default_context(cafile=chain)
    client.check_hostname = host is not None
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there, server_hostname=host), server.wrap_bio(there, back, server_side=True)]
    for _ in range(_HANDSHAKES):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].getpeercert() or {}
