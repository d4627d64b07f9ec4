"""What the `/metrics` of a server says at one moment."""

import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPException
from typing import Final, Self

from harmonia_py.errors import FormatError, HarmoniaError
from harmonia_py.metrics.exposition import Sample, parse_metrics

_TIMEOUT_SECONDS: Final = 10.0
# A server's figures are a quarter of a MiB; more than this are somebody else's.
_MAX_BYTES: Final = 16 * 1024 * 1024


class NoFigures(HarmoniaError):
    """Nobody answers there, or not with metrics of harmonia-py."""


class Reading:
    """What a server's `/metrics` said.

    Attributes:
        seconds: when, by a monotonic clock.
    """

    def __init__(self, samples: Sequence[Sample], seconds: float) -> None:
        self.seconds = seconds
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    @classmethod
    def of(cls, url: str, authorization: str | None = None) -> Self:
        """Ask the server whose URL, or that of whose `/metrics`, is `url`; `authorization` goes to no other.

        Raises:
            NoFigures: it does not say.
        """
        if not url.startswith(("http://", "https://")):
            raise NoFigures(f"{url}: is not a URL that begins with http:// or https://")
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
            raise NoFigures(f"{url}: {_explain(error)}") from error
        except (OSError, HTTPException, ValueError, FormatError) as error:
            raise NoFigures(f"{url}: {getattr(error, 'reason', None) or error}") from error
        if not reading.all("harmonia_build_info"):
            raise NoFigures(f"{url}: these are not the metrics of harmonia-py")
        return reading

    def all(self, name: str) -> list[Sample]:
        """The samples with this name."""
        return self._by_name.get(name, [])

    def sum(self, name: str, **labels: str) -> float:
        """The sum of those that have these labels."""
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
    """What a server calls things must not move the cursor of whoever looks at it."""
    return "".join(one if one.isprintable() else "?" for one in text)
