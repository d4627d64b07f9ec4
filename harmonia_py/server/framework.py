"""The import of the web framework, without its client and without the certificates that its client would read."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, Final

_NAME: Final = "aiohttp"
# OpenSSL: SSL_CTX_set_default_verify_paths(3).
_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def without_client() -> None:
    """From now on, importing a module of aiohttp does not import its client; the first use of the client's names does.

    `import aiohttp.web` runs aiohttp's `__init__` before, which imports the client: a tenth of the start of a server,
    and 2 MB of its memory, for what only a mirror has. Nothing changes once aiohttp is imported.
    """
    if _NAME in sys.modules:
        return
    spec = find_spec(_NAME)
    if spec is not None and spec.loader is not None:
        package = module_from_spec(spec)
        package.__class__ = _Package
        sys.modules[_NAME] = package


class _Package(ModuleType):
    """The package aiohttp before its `__init__` has run. Its modules are imported as if it had."""

    _is_running = False

    def __getattr__(self, name: str) -> Any:  # any name of aiohttp
        if name == "__version__":  # `http` puts it into a header that our answers replace
            return ""
        if (name.startswith("__") and name != "__all__") or self._is_running:
            raise AttributeError(name)
        if find_spec(f"{_NAME}.{name}") is not None:
            return import_module(f"{_NAME}.{name}")
        self._run_init()
        return getattr(self, name)

    def _run_init(self) -> None:
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        self._is_running = True
        try:
            with without_certificates():
                spec.loader.exec_module(self)
        finally:
            del self._is_running
        self.__class__ = ModuleType  # type: ignore[assignment]  # a package like any other from now on


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
