"""`[caches.NAME]`: what a table means, and what is said of one that cannot be."""

from pathlib import Path

import pytest

from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.config.file import load
from harmonia_py.errors import ConfigError
from harmonia_py.nix.signing import SecretKey

KEY = str(SecretKey.generate("ci-1").public_key)
UPSTREAM = '[[upstream]]\nurl = "https://cache.nixos.org"\n'


def test_a_table_becomes_what_the_catalog_keeps(tmp_path: Path) -> None:
    file = tmp_path / "harmonia.toml"
    file.write_text(
        f'{UPSTREAM}[caches.base]\npublic = true\n[caches."team+1"]\nsigned_by = ["{KEY}"]\nlocal_store = true\n'
        'upstreams = ["cache.nixos.org"]\ncaches = ["base", "default"]\npriority = 7\nwant_mass_query = false\n'
        'max_nar_size = "2 GiB"\nmax_size = 1000\nkeep_unused = "30 days"\n'
    )
    caches = load(file, {}, {}).caches
    assert caches["base"].settings == CacheSettings(public=True)
    assert caches["team+1"].settings == CacheSettings(
        priority=7,
        want_mass_query=False,
        signed_by=(KEY,),
        local_store=True,
        upstreams=("cache.nixos.org",),
        caches=("base", "default"),
        max_nar_size=2 * 1024**3,
        max_size=1000,
        keep_unused=30 * 86_400,
    )


@pytest.mark.parametrize(
    ("lines", "public"),
    [
        ("", True),
        ("[caches.default]", True),
        ("[caches.default]\npublic = false", False),
        ('token_file = "tokens"', False),
        ('token_file = "tokens"\n[caches.default]', False),
    ],
)
def test_the_cache_at_the_root_is_private_where_there_is_a_token_file_or_the_table_says_so(
    tmp_path: Path, lines: str, *, public: bool
) -> None:
    file = tmp_path / "harmonia.toml"
    file.write_text(lines)
    assert load(file, {}, {}).is_public is public


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[caches.nar]", "caches: nar: a cache cannot be called nar: other URLs begin with that"),
        ('[caches."a b"]', "caches: a b: the name of a cache is made of up to 50 letters, digits, _, + and -"),
        (
            "[caches.default]\npriority = 7",
            "caches: default: priority: the cache at / has that of the setting outside of tables",
        ),
        ("[caches.default]\nlocal_store = true", "caches: default: local_store: the cache at / has the local store"),
        ('[caches.default]\ninto = "disk"', "caches.default.into: "),
        (
            '[caches.default]\ninto = "store"\nmax_size = 1',
            "default: max_size: what the store keeps is for Nix to decide",
        ),
        (
            '[database]\nurl = "postgresql://db/x"\n[caches.default]\ninto = "store"',
            'caches: default: into: "store" is that of one machine, and with database.url several share',
        ),
        ('[caches.a]\ninto = "store"', "caches: a: into: only what is pushed to the cache at / goes into the store"),
        (
            'token_file = "x"\n[caches.default]\npublic = true',
            "caches: default: public: is true, and token_file lets in only who has a token of it",
        ),
        (
            '[policy]\nserve = "ultimate"\n[caches.default]',
            'policy: serve = "ultimate" gives out nothing that is pushed',
        ),
        (
            f'[policy]\nserve = "signed"\npublic_keys = ["{KEY}"]\n[caches.default]\nsigned_by = ["{KEY}"]',
            "caches: default: signed_by: the keys of policy.public_keys count; leave it out",
        ),
        ('[caches.a]\npublic = "yes"', "caches.a.public: expected `bool`, got `str`"),
        (
            '[caches.a]\nmax_size = "much"',
            "caches.a.max_size: not a size: 'much'; write bytes as a number",
        ),
        ('[caches.a]\nkeep_unused = "long"', "caches.a.keep_unused: not a duration: 'long'; write seconds as a number"),
        ('[caches.a]\nsigned_by = ["key"]', "caches.a.signed_by: "),
        ("[caches.a]\npubic = true", 'caches.a.pubic: unknown key; did you mean "public"?'),
        ('[caches.a]\nupstreams = ["x"]', "caches: a: upstreams: there is no upstream 'x'"),
        (f'{UPSTREAM}[caches.a]\nupstreams = ["x"]', "there is no upstream 'x'; there are cache.nixos.org"),
        ('[caches.a]\ncaches = ["b"]\n[caches.c]', "caches: a: caches: there is no cache 'b'; there are c"),
        ('[caches.a]\ncaches = ["a"]', "caches: a: caches: looks through itself: a -> a"),
        (
            '[caches.a]\npublic = true\ncaches = ["b"]\n[caches.b]',
            "caches: a: caches: b is not public, and everyone who reads a would read it",
        ),
        (
            '[caches.default]\ncaches = ["b"]\n[caches.b]',
            "caches: default: caches: b is not public, and everyone who reads default would read it",
        ),
        (
            '[policy]\nserve = "signed"\npublic_keys = ["' + KEY + '"]\n'
            '[caches.default]\ncaches = ["b"]\n[caches.b]\npublic = true',
            "caches: default: caches: policy.serve leaves out what the cache at / has from elsewhere",
        ),
        ('[caches.a]\ncaches = ["b"]\n[caches.b]\ncaches = ["a"]', "looks through itself: a -> b -> a"),
    ],
)
def test_what_cannot_be_is_said_with_the_name_of_the_cache(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "harmonia.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {}, {})
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "harmonia.toml"
    file.write_text('workers = "x"\n[caches.a]\npublic = 1\npriority = "x"\n[caches.b]\nmax_size = "much"\n')
    with pytest.raises(ConfigError) as caught:
        load(file, {}, {})
    lines = str(caught.value).splitlines()
    places = [line.removeprefix(f"{file}: ").partition(":")[0] for line in lines]
    assert sorted(places) == ["caches.a.priority", "caches.a.public", "caches.b.max_size", "workers"]
