"""The certificate that a server shows to clients over TLS, and how it is replaced while the server runs."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from harmonia_py.errors import ConfigError, HarmoniaError

_log = logging.getLogger(__name__)

# How often is looked whether the certificate has been replaced.
_CERTIFICATE_SECONDS: Final = 5.0


class Certificate:
    """The certificate that a server shows to clients over TLS, and can replace while it runs.

    Args:
        chain: the certificate and those that vouch for it, in PEM form.
        key: its private key.

    Raises:
        ConfigError: one of them cannot be read, or they do not belong together.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self.context = _context()
        self._chain = chain
        self._key = key
        self._state: object = None
        self.renew()

    def renew(self) -> None:
        """Read the files again, and show their certificate to every client that connects from now on."""
        self._state = self._look()
        # Tried first: OpenSSL would keep one half of a pair that does not fit.
        self._load(_context())
        self._load(self.context)

    def has_changed(self) -> bool:
        """Whether the files are others than when they were read last, with or without success."""
        return self._look() != self._state

    def _look(self) -> object:
        try:
            stats = [file.stat() for file in (self._chain, self._key)]
        except OSError:
            return None
        return [(stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]

    def _load(self, context: ssl.SSLContext) -> None:
        for name, file in (("tls_cert_path", self._chain), ("tls_key_path", self._key)):
            try:
                file.read_bytes()
            except OSError as error:
                raise ConfigError(f"{file}: {name}: {error.strerror}") from None
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._chain, self._key, password="")
        except (OSError, ValueError) as error:
            what = "not a certificate and its key in PEM form, the key without a password"
            if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
                what = "the key is not that of the certificate"
            raise ConfigError(f"{self._chain}, {self._key}: tls_cert_path, tls_key_path: {what}") from None


async def keep_current(certificate: Certificate) -> None:
    """Show a certificate that has been replaced, as renewals do, without being asked."""
    while True:
        try:
            if await asyncio.to_thread(certificate.has_changed):
                certificate.renew()
                _log.info("the certificate has been replaced")
        except HarmoniaError as error:
            # Perhaps half of the pair has been replaced so far: the old one is shown until both fit.
            _log.warning("the certificate stays what it was: %s", error)
        await asyncio.sleep(_CERTIFICATE_SECONDS)


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
