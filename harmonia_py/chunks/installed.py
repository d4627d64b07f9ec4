"""The check that the library which cuts NARs is installed; it is an extra."""

from importlib.util import find_spec

from harmonia_py.errors import ConfigError


def is_installed() -> bool:
    """Whether the library that cuts is installed."""
    return find_spec("pyfastcdc") is not None


def check_installed() -> None:
    """Check that the library that cuts is installed.

    Raises:
        ConfigError: it is not.
    """
    if not is_installed():
        raise ConfigError("deduplicate: pyfastcdc is not installed: pip install 'harmonia-py[deduplicate]'")
