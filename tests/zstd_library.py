"""zstd of the standard library, or its backport to earlier versions of Python: `from zstd_library import zstd`."""

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["zstd"]
