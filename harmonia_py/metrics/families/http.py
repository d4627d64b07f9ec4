"""The families of requests, and of the bytes that are sent."""

from typing import Final

from harmonia_py.metrics.family import HARMONIA_BUCKETS, Family

# A first download may wait for its turn to be compressed.
_WAITING_BUCKETS: Final = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)

_REQUEST_LABELS: Final = ("method", "path", "status")

# Not counted for itself: it is the count of the histogram below.
HTTP_REQUESTS: Final = Family("harmonia_http_requests_total", "counter", "Requests answered.", _REQUEST_LABELS)
HTTP_REQUEST_DURATION: Final = Family(
    "harmonia_http_request_duration_seconds",
    "histogram",
    "From the first byte of a request to the last of its answer.",
    _REQUEST_LABELS,
    HARMONIA_BUCKETS,
)
HTTP_FIRST_BYTE: Final = Family(
    "harmonia_http_time_to_first_byte_seconds",
    "histogram",
    "From the request of a download to the first byte of its content.",
    ("path",),
    _WAITING_BUCKETS,
)
HTTP_SENT_BYTES: Final = Family("harmonia_http_sent_bytes_total", "counter", "Bytes sent, headers included.", ("kind",))
HTTP_CONNECTIONS: Final = Family("harmonia_http_connections", "gauge", "Connections of clients that are open.")
TRANSFERS_IN_FLIGHT: Final = Family("harmonia_transfers_in_flight", "gauge", "Downloads that are being sent.")
TRANSFERS_ABORTED: Final = Family(
    "harmonia_transfers_aborted_total",
    "counter",
    "Downloads cut before their end: the client left or stood still, the bytes could not be had, or the server ended.",
    ("reason",),
)
