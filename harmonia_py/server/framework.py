"""The import of the web framework, without the certificates that it would read for a client."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# OpenSSL: SSL_CTX_set_default_verify_paths(3).
_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextmanager
def without_certificates() -> Iterator[None]:
    """While it lasts, OpenSSL does not find the certificates of the machine.

    aiohttp makes two TLS contexts for its client when it is imported, and reads every certificate for each of them:
    `benchmarks.field --only start` shows what that costs. What has upstreams makes a context of its own
    (`wiring/upstreams`).
    """
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
