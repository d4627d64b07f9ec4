"""URLs of a bucket with a signature in them, for what the library of buckets does not sign: requests with a query.

Source: Signature Version 4, "Authenticating Requests: Using Query Parameters", in the reference of Amazon S3's API.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from msgspec import Struct

from harmonia_py.storage.s3.settings import S3Credentials

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "s3"
_SAFE: Final = "-_.~"
# The hash of a body would have to be known before it is sent; TLS guards it on its way.
_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
# Clients leave these out of the header Host.
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Signer(Struct, frozen=True, kw_only=True):
    """Signs URLs of one bucket with one key.

    Attributes:
        bucket_url: the URL of the bucket, prefix of its keys included, without a slash at its end.
        region: that requests are signed for.
        credentials: the key.
    """

    bucket_url: str
    region: str
    credentials: S3Credentials

    def url(
        self,
        method: str,
        key: str,
        query: Mapping[str, str],
        *,
        seconds: int,
        headers: Mapping[str, str] | None = None,
        now: datetime | None = None,
    ) -> str:
        """A URL that is good for one kind of request to one object.

        Args:
            method: of the request.
            key: of the object, below `bucket_url`; empty for the bucket, or what `bucket_url` has of it.
            query: of the request.
            seconds: for which the URL is good.
            headers: that the request must have, with these values, by their names in small letters.
            now: the time of the signature.
        """
        parts = urlsplit(self.bucket_url)
        path = quote(f"{parts.path}/{key}" if key else parts.path or "/", safe=f"/{_SAFE}")
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{self.region}/{_SERVICE}/aws4_request"
        host = _host(parts)
        signed = {"host": host, **(headers or {})}
        token = self.credentials.session_token
        text = _query(
            {
                **query,
                "X-Amz-Algorithm": _ALGORITHM,
                "X-Amz-Credential": f"{self.credentials.access_key_id}/{scope}",
                "X-Amz-Date": stamp,
                "X-Amz-Expires": str(seconds),
                "X-Amz-SignedHeaders": ";".join(sorted(signed)),
                **({} if token is None else {"X-Amz-Security-Token": token}),
            }
        )
        lines = [*(f"{name}:{signed[name].strip()}" for name in sorted(signed)), ""]
        request = "\n".join([method, path, text, *lines, ";".join(sorted(signed)), _PAYLOAD])
        to_sign = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
        signature = hmac.digest(self._key(stamp[:8]), to_sign.encode(), "sha256").hex()
        return f"{parts.scheme}://{host}{path}?{text}&X-Amz-Signature={signature}"

    def _key(self, day: str) -> bytes:
        key = f"AWS4{self.credentials.secret_access_key}".encode()
        for part in (day, self.region, _SERVICE, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key


def _host(parts: SplitResult) -> str:
    """The host of a URL, and its port, as clients write them in the header Host."""
    name = parts.hostname or ""
    # The address of IPv6 loses its brackets there.
    host = f"[{name}]" if ":" in name else name
    return host if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{parts.port}"


def _query(query: Mapping[str, str]) -> str:
    return "&".join(sorted(f"{quote(name, safe=_SAFE)}={quote(value, safe=_SAFE)}" for name, value in query.items()))
