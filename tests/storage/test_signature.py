"""Signed URLs, held against Amazon's own example and against the library of buckets."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import S3Store

from harmonia_py.storage.s3.settings import S3Credentials
from harmonia_py.storage.s3.signature import Signer


def test_the_example_of_amazons_reference() -> None:
    """Source: "Authenticating Requests: Using Query Parameters", whose example this is."""
    credentials = S3Credentials(
        access_key_id="AKIAIOSFODNN7EXAMPLE", secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    )
    signer = Signer(bucket_url="https://examplebucket.s3.amazonaws.com", region="us-east-1", credentials=credentials)
    now = datetime(2013, 5, 24, tzinfo=UTC)
    assert signer.url("GET", "test.txt", {}, seconds=86400, now=now).endswith(
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


@pytest.mark.parametrize(
    "endpoint",
    [
        *("http://[::1]:9000", "http://[::1]", "https://[2001:db8::80]:443", "https://Bucket.Example.org"),
        *("http://example.org:80", "https://example.org:443", "https://example.org:80", "http://example.org:443"),
    ],
)
def test_the_host_is_that_of_the_library(endpoint: str) -> None:
    """The brackets of an IPv6 address were lost: nothing could be sent to its URLs."""
    credentials = S3Credentials(access_key_id="key", secret_access_key="secret")
    signer = Signer(bucket_url=f"{endpoint}/bucket", region="eu-central-1", credentials=credentials)
    store = S3Store(
        "bucket",
        endpoint=endpoint,
        region="eu-central-1",
        access_key_id="key",
        secret_access_key="secret",
        client_options={"allow_http": True},
    )
    theirs = urlsplit(obstore.sign(store, "PUT", "x", timedelta(minutes=15)))
    query = {name: values[0] for name, values in parse_qs(theirs.query).items()}
    now = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = urlsplit(signer.url("PUT", "x", {}, seconds=900, now=now))
    assert ours[:3] == theirs[:3]
    assert parse_qs(ours.query) == parse_qs(theirs.query)


@pytest.mark.parametrize("token", [None, "a/b+c=="])
@given(key=st.text(st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="/."), min_size=1))
def test_a_url_without_a_query_is_that_of_the_library(token: str | None, key: str) -> None:
    store = S3Store(
        "bucket",
        endpoint="http://127.0.0.1:9000",
        region="eu-central-1",
        access_key_id="key",
        secret_access_key="secret",
        client_options={"allow_http": True},
        **({} if token is None else {"session_token": token}),  # type: ignore[arg-type]
    )
    url = obstore.sign(store, "PUT", key, timedelta(minutes=15))
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    credentials = S3Credentials(access_key_id="key", secret_access_key="secret", session_token=token)
    signer = Signer(bucket_url="http://127.0.0.1:9000/bucket", region="eu-central-1", credentials=credentials)
    now = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = urlsplit(signer.url("PUT", key, {}, seconds=900, now=now))
    assert parse_qs(ours.query) == parse_qs(parts.query)
