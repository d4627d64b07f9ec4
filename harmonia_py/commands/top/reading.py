"""The `/metrics` of a server at one moment."""

import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPException
from typing import Final, Self

from harmonia_py.errors import FormatError, HarmoniaError, describe_os_error
from harmonia_py.metrics.exposition import Sample, parse_metrics

_TIMEOUT_SECONDS: Final = 10.0
# The metrics of this server are a quarter of a MiB; a longer answer is not from harmonia-py.
_MAX_BYTES: Final = 16 * 1024 * 1024


class NoMetrics(HarmoniaError):
    """No server answers there, or not with metrics of harmonia-py."""


class Reading:
    """The samples of one answer of `/metrics`.

    Attributes:
        seconds: when it was read, by a monotonic clock.
    """

    def __init__(self, samples: Sequence[Sample], seconds: float) -> None:
        self.seconds = seconds
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    @classmethod
    def of(cls, url: str, authorization: str | None = None) -> Self:
        """Ask the server at `url`, which may end in `/metrics`; `authorization` goes to no other server.

        Raises:
            NoMetrics: the server does not answer, or not with metrics of harmonia-py.
        """
        if not url.startswith(("http://", "https://")):
            raise NoMetrics(f"{url}: is not a URL that begins with http:// or https://")
        url = url.rstrip("/").removesuffix("/metrics") + "/metrics"
        try:
            request = urllib.request.Request(url)  # noqa: S310  # checked above
            if authorization is not None:
                request.add_unredirected_header("Authorization", authorization)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310  # checked above
                text = response.read(_MAX_BYTES).decode()
            reading = cls(parse_metrics(text), time.monotonic())
        except urllib.error.HTTPError as error:
            error.close()
            raise NoMetrics(f"{url}: {_explain(error)}") from error
        except (OSError, HTTPException, ValueError, FormatError) as error:
            reason = getattr(error, "reason", None) or error
            what = describe_os_error(reason) if isinstance(reason, OSError) else reason
            raise NoMetrics(f"{url}: {what}") from error
        if not reading.all("harmonia_build_info"):
            raise NoMetrics(f"{url}: these are not the metrics of harmonia-py")
        return reading

    def all(self, name: str) -> list[Sample]:
        """The samples with this name."""
        return self._by_name.get(name, [])

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        return sum(
            one.value
            for one in self.all(name)
            if all(printable(one.labels.get(name, "")) == value for name, value in labels.items())
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums for each value of a label."""
        sums: dict[str, float] = {}
        for one in self.all(name):
            value = printable(one.labels.get(label, ""))
            sums[value] = sums.get(value, 0.0) + one.value
        return sums


def _explain(error: urllib.error.HTTPError) -> str:
    if error.code == HTTPStatus.UNAUTHORIZED:
        return "it is not public: --token-file FILE opens it, with the token of one whom it knows"
    return str(error)


def printable(text: str) -> str:
    """`text` from a server, without characters that would move the terminal's cursor."""
    return "".join(one if one.isprintable() else "?" for one in text)
