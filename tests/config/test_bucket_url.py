"""`[storage] url`: what names a bucket, and how what is wrong with one is said."""

from pathlib import Path

import pytest

from harmonia_py.config.bucket_url import BucketUrl
from harmonia_py.config.file import load
from harmonia_py.errors import ConfigError


def test_a_url_says_where_the_bucket_is_and_how_it_is_spoken_to() -> None:
    url = "s3://nix-cache/a/b/?endpoint=http://10.0.0.1:9000/&region=eu-central-1&part_size=16%20MiB&checksum=sha256"
    bucket = BucketUrl.parse(url)
    assert (bucket.bucket, bucket.prefix, bucket.region) == ("nix-cache", "a/b", "eu-central-1")
    assert (bucket.endpoint, bucket.path_style) == ("http://10.0.0.1:9000", True)
    assert (bucket.part_size, bucket.checksum) == (16 * 1024**2, "sha256")


def test_without_parameters_it_is_amazons_and_the_bucket_is_in_its_host_name() -> None:
    bucket = BucketUrl.parse("s3://nix-cache")
    assert (bucket.prefix, bucket.endpoint, bucket.path_style, bucket.checksum) == ("", None, False, None)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://s3.example.org/nix-cache", "not the URL of a bucket"),
        ("s3://key:secret@nix-cache", "holds a password"),
        ("s3://Nix_Cache", "not the name of a bucket"),
        ("s3://nix-cache/../other", "not a prefix"),
        ("s3://nix-cache/.pending", "not a prefix"),
        ("s3://nix-cache?endpont=http://x", "endpont: is none of endpoint, region"),
        ("s3://nix-cache?endpoint=s3.example.org", "endpoint: not the URL of a server"),
        ("s3://nix-cache?endpoint=http://a:b@s3.example.org", "endpoint: not the URL of a server"),
        ("s3://nix-cache?region=a&region=b", "region: is there twice"),
        ("s3://nix-cache?region=eu/central", "region: not the name of a region"),
        ("s3://nix-cache?path_style=yes", "path_style: is true or false"),
        ("s3://nix-cache?part_size=5MiB", "part_size: is between"),
        ("s3://nix-cache?checksum=md5", "checksum: is one of"),
    ],
)
def test_what_is_no_bucket_is_refused_with_what_is_wrong(url: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "harmonia.toml"
    file.write_text(f'[storage]\nurl = "{url}"\n')
    with pytest.raises(ConfigError) as refused:
        load(file, {}, {})
    assert f"{file}: storage.url: " in str(refused.value)
    assert problem in str(refused.value)
    assert "secret" not in str(refused.value)


def test_what_goes_with_a_bucket_needs_one(tmp_path: Path) -> None:
    file = tmp_path / "harmonia.toml"
    for line, problem in (
        ('public_url = "https://cache.example.org"', "public_url: goes with url, which is missing"),
        ('keep_in_bucket = "everything"', "keep_in_bucket: goes with url, which is missing"),
        ('hot_max_size = "1 GiB"', "hot_max_size: goes with url, which is missing"),
        ('url = "s3://nix-cache"\nhot_directory = "/hot"', "hot_directory: goes with hot_max_size, which is missing"),
        ('url = "s3://nix-cache"\nhot_max_size = "many"', "hot_max_size"),
    ):
        file.write_text(f"[storage]\n{line}\n")
        with pytest.raises(ConfigError, match=problem):
            load(file, {}, {})
