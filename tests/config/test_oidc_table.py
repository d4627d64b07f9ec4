"""`[oidc.NAME]`: what is wrong with it is said with the name of the key, and what would let in anybody is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from harmonia_py.config import file as config_file
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError

GITHUB = "https://token.actions.githubusercontent.com"
RULE: dict[str, Any] = {"claims": {"repository": "acme/*"}, "caches": ["main"], "allow": ["push"]}
TABLE: dict[str, Any] = {"issuer": "https://ci.example.org", "audience": "cache", "rules": [RULE]}


def load(tmp_path: Path, tables: Mapping[str, Any]) -> Config:
    file = tmp_path / "harmonia.toml"
    file.write_text(tomli_w.dumps({"oidc": tables}))
    return config_file.load(file, {}, {})


def test_a_rule_as_a_value(tmp_path: Path) -> None:
    rule = RULE | {"expires": "2 hours", "claims": {"repository": ["acme/*", "x/y"]}}
    config = load(tmp_path, {"ci": TABLE | {"rules": [rule]}})
    value = config.oidc["ci"].rules[0].rule
    assert value.seconds == 7200
    assert value.claims == {"repository": ("acme/*", "x/y")}
    assert [(set(grant.actions), grant.caches) for grant in value.grants] == [({"push"}, "main")]
    assert (
        config.oidc["ci"].rules[0].rule == config_file.load(tmp_path / "harmonia.toml", {}, {}).oidc["ci"].rules[0].rule
    )


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"audience": None}, "oidc.ci.audience", "is missing"),
        ({"audience": " "}, "oidc.ci.audience", "is empty"),
        ({"issuer": None}, "oidc.ci.issuer", "is missing"),
        ({"issuer": "ci.example.org"}, "oidc.ci.issuer", "not the URL of an issuer"),
        ({"issuer": "http://ci.example.org"}, "oidc.ci.issuer", "without TLS"),
        ({"issuer": "https://x@ci.example.org"}, "oidc.ci.issuer", "not the URL"),
        ({"rules": []}, "oidc.ci.rules", "is missing"),
        ({"rules": [RULE | {"claims": {}}]}, "oidc.ci.rules[0].claims", "every token"),
        ({"rules": [RULE | {"claims": {"ref": []}}]}, "oidc.ci.rules[0].claims", "every token"),
        ({"rules": [RULE, RULE | {"allow": ["fly"]}]}, "oidc.ci.rules[1].allow", "fly is not one of read, push"),
        ({"rules": [RULE | {"caches": ["a b"]}]}, "oidc.ci.rules[0].caches", "not a pattern"),
        ({"rules": [RULE | {"caches": []}]}, "oidc.ci.rules[0].caches", "allows nothing"),
        ({"rules": [RULE | {"expires": "13 hours"}]}, "oidc.ci.rules[0].expires", "between 1 and 12 hours"),
        ({"rules": [RULE | {"expires": 60}]}, "oidc.ci.rules[0].expires", "between 1 and 12 hours"),
        ({"audiences": ["x"]}, "oidc.ci.audiences", 'did you mean "audience"'),
        ({"rules": [RULE | {"claim": {"x": "y"}}]}, "oidc.ci.rules.claim", 'did you mean "claims"'),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change: dict[str, Any], key: str, words: str) -> None:
    table = {name: value for name, value in (TABLE | change).items() if value is not None}
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, {"ci": table})
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{tmp_path}/harmonia.toml: {key}: ")
    assert words in line


@pytest.mark.parametrize(
    ("claims", "says_whose"),
    [
        ({"event_name": "push"}, False),
        ({"ref": "refs/heads/main"}, False),
        ({"repository": "*/*"}, False),
        ({"repository": "*/nixpkgs"}, False),
        ({"repository": "ac*/nixpkgs"}, False),
        ({"repository": ["acme/x", "*/x"]}, False),
        ({"sub": "repo:*/*:ref:refs/heads/main"}, False),
        ({"sub": "*:acme/x:*"}, False),
        ({"sub": "ref:refs/heads/main"}, False),
        ({"sub": "environment:production"}, False),
        ({"sub": "event_name:push:repository_visibility:public"}, False),
        ({"sub": "job_workflow_ref:acme/flows/.github/workflows/push.yml@refs/heads/main"}, False),
        ({"sub": "acme/x"}, False),
        ({"sub": ["repo:acme/x:*", "ref:refs/heads/main"]}, False),
        ({"sub": "repository_owner_id:*:ref:refs/heads/main"}, False),
        ({"job_workflow_ref": "acme/flows/.github/workflows/push.yml@refs/heads/main"}, False),
        ({"sub": "repository_owner_id:42:repository_visibility:private"}, True),
        ({"sub": "enterprise:acme:ref:refs/heads/main"}, True),
        ({"repository": "acme/*"}, True),
        ({"repository_owner": "acme"}, True),
        ({"sub": "repo:acme/*:ref:refs/heads/main"}, True),
        ({"event_name": "push", "repository_owner_id": "42"}, True),
    ],
)
def test_a_rule_for_an_issuer_of_all_the_world_says_whose(
    tmp_path: Path, claims: dict[str, Any], *, says_whose: bool
) -> None:
    """Anybody can have GitHub sign a token for any audience: a rule by `ref` alone would let in all of GitHub."""
    tables = {"github": TABLE | {"issuer": GITHUB, "rules": [RULE | {"claims": claims}]}}
    if says_whose:
        load(tmp_path, tables)
        return
    with pytest.raises(ConfigError, match="lets in tokens of anybody"):
        load(tmp_path, tables)


def test_no_two_tables_are_of_one_issuer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is that of \[oidc\.a\]"):
        load(tmp_path, {"a": TABLE, "b": TABLE | {"issuer": "https://ci.example.org/"}})
