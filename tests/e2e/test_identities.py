"""A CI's job pushes with the token that its CI has signed: real clients, a real server, an issuer on loopback."""

import json
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from certificates import make_certificate
from ci_jobs import copy, run_client, run_command
from issuer import AUDIENCE, OTHER_RSA, SUBJECT, Issuer, Reply, SigningKey, claims_of, table_of
from lab import Lab
from reloading import reload
from server import Server, settings_of

from harmonia_py.catalog.access import MAX_OF_HOLDER

MAIN = {"claims": {"repository": "acme/*", "ref": "refs/heads/main"}, "caches": ["main"], "allow": ["read", "push"]}
PULLS = {"claims": {"repository": "acme/*", "ref": "refs/pull/*/merge"}, "caches": ["pulls"], "allow": ["read", "push"]}
CACHES: dict[str, Any] = {"main": {"public": True}, "pulls": {}}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


def settings(lab: Lab, table: dict[str, Any]) -> dict[str, Any]:
    return settings_of(lab) | {"workers": 1, "caches": CACHES, "oidc": {"ci": table}}


EXCHANGE = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
}


def exchange(server: Server, token: str, **fields: str) -> tuple[int, dict[str, Any]]:
    form = urlencode(EXCHANGE | {"subject_token": token} | fields).encode()
    try:
        with urlopen(Request(f"{server.url}/api/token", form), timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.default_backing
@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_job_pushes_with_its_own_token(daemon: Lab, tmp_path: Path, algorithm: str) -> None:
    with (
        Issuer(SigningKey.of(algorithm)) as issuer,
        Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN))) as server,
    ):
        token = issuer.token(ref="refs/heads/main")
        assert copy(daemon, server, "main", token, tmp_path)[0] == 0
        narinfo = server.get(f"/main/{daemon.closure.top.hash_part}.narinfo")
        assert narinfo.status == 200
        # It was asked once for all of the push.
        assert issuer.requests == ["/.well-known/openid-configuration", "/jwks"]


def test_a_job_pushes_where_a_rule_lets_it_and_learns_why_not_elsewhere(
    daemon: Lab, tmp_path: Path, issuer: Issuer
) -> None:
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN, PULLS))) as server:
        token = issuer.token(sub="a job", ref="refs/pull/7/merge")
        assert copy(daemon, server, "pulls", token, tmp_path)[0] == 0
        status, said = copy(daemon, server, "main", token, tmp_path)
        assert status != 0
        assert "HTTP error 403" in said
        assert "rule 1 does not take its claim ref, 'refs/pull/7/merge'" in said
        assert "refs/heads/main" not in said
        refused = issuer.token(repository="mallory/widgets", ref="refs/heads/main")
        status, said = copy(daemon, server, "main", refused, tmp_path)
        assert status != 0
        assert "rule 1 does not take its claim repository, 'mallory/widgets'" in said


def test_the_issuer_has_a_certificate_of_its_own(daemon: Lab, tmp_path: Path) -> None:
    pair = make_certificate(tmp_path, "issuer")
    with (
        Issuer(certificate=pair) as issuer,
        Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN, ca_file=str(pair.chain)))) as server,
    ):
        assert copy(daemon, server, "main", issuer.token(ref="refs/heads/main"), tmp_path)[0] == 0


@pytest.mark.default_backing
def test_a_server_starts_while_its_issuer_is_away(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    """Others ask for the keys when they start, and do not start while the issuer is away."""
    issuer.answers["/jwks"] = Reply(503)
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN))) as server:
        bearer = {"Authorization": f"Bearer {issuer.token(ref='refs/heads/main')}"}
        assert issuer.requests == []
        assert server.get("/main/nix-cache-info").status == 200
        assert server.get("/pulls/nix-cache-info", bearer).status == 502
        asked = len(issuer.requests)
        # It is not asked again with each request, and what needs no token goes on.
        assert server.get("/pulls/nix-cache-info", bearer).status == 502
        assert len(issuer.requests) == asked
        assert server.get("/main/nix-cache-info").status == 200


@pytest.mark.default_backing
def test_a_reload_takes_other_rules_and_keeps_the_keys(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN))) as server:
        token = issuer.token(ref="refs/pull/7/merge")
        bearer = {"Authorization": f"Bearer {token}"}
        assert server.get("/pulls/nix-cache-info", bearer).status == 403
        reload(server, settings(daemon, table_of(issuer, PULLS)))
        assert server.get("/pulls/nix-cache-info", bearer).status == 200
        issuer.stop()
        other = {"Authorization": f"Bearer {issuer.token(ref='refs/pull/8/merge')}"}
        assert server.get("/pulls/nix-cache-info", other).status == 200


def test_a_token_is_exchanged_for_one_that_lasts_and_is_the_subjects(
    daemon: Lab, tmp_path: Path, issuer: Issuer
) -> None:
    rule = MAIN | {"expires": "2 hours"}
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, rule, PULLS))) as server:
        assert json.loads(server.get("/api/capabilities").body)["oidc"] == {"audiences": [AUDIENCE]}
        status, told = exchange(server, issuer.token(ref="refs/heads/main"))
        assert (status, told["token_type"], told["expires_in"]) == (200, "Bearer", 7200)
        token = told["access_token"]
        assert token.startswith("hpy_")
        # It is good for itself: neither the issuer nor its token are needed any more.
        issuer.stop()
        assert copy(daemon, server, "main", token, tmp_path)[0] == 0
        assert copy(daemon, server, "pulls", token, tmp_path)[0] != 0
        capabilities = json.loads(server.get("/api/capabilities", {"Authorization": f"Bearer {token}"}).body)
        assert capabilities["principal"]["name"] == f"ci identity {SUBJECT}"
        log = [json.loads(line) for line in run_command(server, daemon, "audit")]
        exchanged = next(entry for entry in log if entry["action"] == "token.exchange")
        assert (exchanged["detail"]["issuer"], exchanged["detail"]["subject"]) == ("ci", SUBJECT)
        pushes = [entry for entry in log if entry["action"] == "push"]
        assert pushes
        assert {entry["principal"] for entry in (exchanged, *pushes)} == {f"ci identity {SUBJECT}"}
        # And revoked like any other.
        (listed,) = [json.loads(line) for line in run_command(server, daemon, "token", "list", "--json")]
        assert listed["holder"] == f"ci identity {SUBJECT}"
        run_command(server, daemon, "token", "revoke", listed["name"])
        assert server.get("/pulls/nix-cache-info", {"Authorization": f"Bearer {token}"}).status == 401


def test_all_that_an_identity_has_exchanged_its_tokens_for_is_revoked_at_once(
    daemon: Lab, tmp_path: Path, issuer: Issuer
) -> None:
    private = settings(daemon, table_of(issuer, MAIN, PULLS)) | {"caches": {"main": {}}}
    with Server(tmp_path, daemon.env, private) as server:
        mine = [exchange(server, issuer.token(ref="refs/heads/main"))[1]["access_token"] for _ in range(3)]
        other = exchange(server, issuer.token(sub="repo:acme/other", ref="refs/heads/main"))[1]["access_token"]

        def statuses(*tokens: str) -> list[int]:
            return [server.get("/main/nix-cache-info", {"Authorization": f"Bearer {one}"}).status for one in tokens]

        assert statuses(*mine, other) == [200] * 4
        run_command(server, daemon, "token", "revoke", "--holder", f"ci identity {SUBJECT}")
        assert statuses(*mine, other) == [401, 401, 401, 200]
        (entry,) = [
            one
            for line in run_command(server, daemon, "audit")
            if (one := json.loads(line))["action"] == "token.revoke"
        ]
        assert (entry["subject"], entry["detail"]) == (f"ci identity {SUBJECT}", {"tokens": 3})


def test_what_is_not_exchanged_is_told_why(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN))) as server:
        status, told = exchange(server, issuer.token(ref="refs/heads/other"))
        assert (status, told["error"]) == (403, "access_denied")
        assert "rule 1 does not take its claim ref, 'refs/heads/other'" in told["error_description"]
        status, told = exchange(server, OTHER_RSA.sign(claims_of(issuer.url, ref="refs/heads/main")))
        assert (status, told["error"]) == (401, "invalid_grant")
        assert "rule" not in told["error_description"]
        assert exchange(server, issuer.token(exp=1, nbf=0, iat=0))[0] == 401
        # One of this server is not exchanged for another one, which would last longer.
        good = exchange(server, issuer.token(ref="refs/heads/main"))[1]["access_token"]
        assert exchange(server, good)[0] == 401
        for fields in ({"grant_type": "password"}, {"subject_token_type": "x"}, {"requested_token_type": "x"}):
            assert exchange(server, issuer.token(), **fields)[1]["error"] == "invalid_request"
        form = urlencode(EXCHANGE).encode()
        for kind, body, words in (
            ("application/json", b"{}", "send it as application/x-www-form-urlencoded"),
            ("application/x-www-form-urlencoded", b"no form", "the body is no form"),
            ("application/x-www-form-urlencoded", b"subject_token=\xff", "the body is no form"),
            ("application/x-www-form-urlencoded", form + b"&grant_type=x", "a field is there twice"),
            ("application/x-www-form-urlencoded", form, "subject_token is missing"),
        ):
            with pytest.raises(HTTPError) as raised:
                urlopen(Request(f"{server.url}/api/token", body, {"Content-Type": kind}), timeout=30)
            with raised.value as answer:
                told = {"error": "invalid_request", "error_description": words}
                assert (answer.code, json.load(answer)) == (400, told)


@pytest.mark.default_backing
def test_a_subject_with_as_many_tokens_as_it_may_have_is_told_to_wait(
    daemon: Lab, tmp_path: Path, issuer: Issuer
) -> None:
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN))) as server:
        token = issuer.token(ref="refs/heads/main")
        assert exchange(server, token)[0] == 200
        with closing(sqlite3.connect(server.root / "state" / "catalog.sqlite", timeout=30)) as catalog, catalog:
            catalog.execute(_MANY, (MAX_OF_HOLDER - 1,))
        form = urlencode(EXCHANGE | {"subject_token": token}).encode()
        with pytest.raises(HTTPError) as raised:
            urlopen(Request(f"{server.url}/api/token", form), timeout=30)
        with raised.value as answer:
            assert (answer.code, answer.headers["Retry-After"]) == (429, "60")
            assert json.load(answer)["error"] == "slow_down"


_MANY = """
    with recursive i (i) as (select 1 union all select i + 1 from i where i < ?)
    insert into tokens (id, name, secret_hash, actions, patterns, created_s, expires_s, holder)
    select 't' || i, 't' || i, secret_hash, actions, patterns, created_s, expires_s, holder from tokens, i
"""


def test_without_an_issuer_nothing_is_exchanged(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    with Server(tmp_path, daemon.env, settings_of(daemon) | {"workers": 1}) as server:
        assert "oidc" not in json.loads(server.get("/api/capabilities").body)
        request = Request(f"{server.url}/api/token", urlencode(EXCHANGE | {"subject_token": issuer.token()}).encode())
        with pytest.raises(HTTPError, match="404"):
            urlopen(request, timeout=30)


@pytest.mark.parametrize("source", ["asked", "variable", "file", "standard input", "another variable"])
def test_a_job_logs_in_with_its_token_and_pushes(daemon: Lab, tmp_path: Path, issuer: Issuer, source: str) -> None:
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN))) as server:
        issuer.job_claims = {"ref": "refs/heads/main"}
        token = issuer.token(**issuer.job_claims)
        (tmp_path / "token").write_text(f"{token}\n")
        options, environment, text = {
            "asked": (("--audience", AUDIENCE), issuer.job, ""),
            "variable": ((), {"HARMONIA_PY_ID_TOKEN": token}, ""),
            "file": (("--id-token", str(tmp_path / "token")), {}, ""),
            "standard input": (("--id-token", "-"), {}, f"{token}\n"),
            "another variable": (("--id-token", "env:CACHE_TOKEN"), {"CACHE_TOKEN": token}, ""),
        }[source]
        home = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
        command = ("login", server.url, "--oidc", "--netrc", *options)
        done = run_client(daemon, command, environment | home, text)
        assert done.returncode == 0, done.stderr
        assert f"logged in to {server.url} as ci identity {SUBJECT}, for 60 minutes" in done.stderr
        machine, host, *_, password = done.stdout.split()
        assert (machine, host, password[:4]) == ("machine", "127.0.0.1", "hpy_")
        netrc = tmp_path / "netrc-of-nix"
        netrc.write_text(done.stdout)
        top = daemon.full(daemon.closure.top)
        pushed = run_client(daemon, ("push", "main", top), home)
        assert pushed.returncode == 0, pushed.stderr
        assert server.get(f"/main/{daemon.closure.top.hash_part}.narinfo").status == 200
        daemon.run("nix", "copy", "--to", f"{server.url}/main/push/x", "--option", "netrc-file", str(netrc), top)


def test_a_job_asks_by_itself_for_a_token_of_the_server_s_own_host(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    table = table_of(issuer, MAIN, audience="http://127.0.0.1")
    with Server(tmp_path, daemon.env, settings(daemon, table)) as server:
        issuer.job_claims = {"ref": "refs/heads/main"}
        home = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
        done = run_client(daemon, ("login", server.url, "--oidc"), issuer.job | home)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("audience", ["sts.amazonaws.com", "https://127.0.0.1@sts.example.org", "https://[", "a b"])
def test_a_server_does_not_choose_for_which_service_a_job_gets_a_token(
    daemon: Lab, tmp_path: Path, issuer: Issuer, audience: str
) -> None:
    """A hostile server named the audience of another service, got the job's token for that, and could use it there."""
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN, audience=audience))) as server:
        issuer.job_claims = {"ref": "refs/heads/main"}
        home = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
        login = ("login", server.url, "--oidc")
        done = run_client(daemon, login, issuer.job | home)
        assert done.returncode == 1
        assert f"say --audience {shlex.quote(audience)} if you mean it" in " ".join(done.stderr.split())
        assert issuer.requests == []
        done = run_client(daemon, (*login, "--audience", audience), issuer.job | home)
        assert done.returncode == 0, done.stderr


def test_a_login_that_can_come_to_nothing_says_why(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    url, answer = "ACTIONS_ID_TOKEN_REQUEST_URL", "/other?audience=http%3A%2F%2F127.0.0.1"
    issuer.answers[answer] = Reply(200, b'{"value": 1}')
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN, audience="http://127.0.0.1"))) as server:
        for options, job, status, words in (
            (("--audience", "x"), {}, 2, "--id-token and --audience go with --oidc"),
            (("token", "--oidc"), {}, 2, "--oidc needs no TOKEN"),
            (("--oidc", "--id-token", "env:NONE"), {}, 1, "env:NONE: there is no token of a CI in it"),
            (("--oidc",), {url: "x"}, 1, "not a URL: 'x'"),
            (("--oidc",), {url: f"{issuer.url}/other"}, 1, "hands out no token"),
        ):
            done = run_client(daemon, ("login", server.url, *options), issuer.job | job | home)
            assert (done.returncode, words in " ".join(done.stderr.split())) == (status, True), done.stderr
    assert issuer.requests == [answer]
    assert not (tmp_path / "home").exists()


def test_a_job_names_one_of_several_audiences(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    """The token of its CI is asked for none that the job does not name."""
    home = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    with Issuer() as other:
        two = {"a": table_of(issuer, MAIN), "b": table_of(other, MAIN, audience="b")}
        for tables, words in (({}, "takes no tokens of CIs"), (two, "say with --audience which of")):
            with Server(tmp_path, daemon.env, settings_of(daemon) | {"oidc": tables, "caches": CACHES}) as server:
                done = run_client(daemon, ("login", server.url, "--oidc"), issuer.job | home)
                assert (done.returncode, words in " ".join(done.stderr.split())) == (1, True), done.stderr
    assert issuer.requests == []


def test_a_job_that_is_not_let_in_learns_why(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    home = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN))) as server:
        login = ("login", server.url, "--oidc", "--audience", AUDIENCE)
        issuer.job_claims = {"ref": "refs/pull/1/merge"}
        done = run_client(daemon, login, issuer.job | home)
        assert done.returncode == 1
        assert "rule 1 does not take its claim ref, 'refs/pull/1/merge'" in done.stderr
        done = run_client(daemon, login, home)
        assert done.returncode == 1
        assert "permissions: id-token: write" in done.stderr
        assert not (tmp_path / "home").exists()


def test_an_operator_asks_what_a_token_would_be_allowed(daemon: Lab, tmp_path: Path, issuer: Issuer) -> None:
    with Server(tmp_path, daemon.env, settings(daemon, table_of(issuer, MAIN, PULLS))) as server:
        config = ("--config", str(server.root / "harmonia.toml"))

        def check(token: str, *options: str) -> tuple[int, str]:
            done = run_client(daemon, ("oidc", "check", "-", *options, *config), {}, token)
            return done.returncode, done.stdout + done.stderr

        claims: dict[str, Any] = {"ref": "refs/pull/7/merge"}
        status, said = check(issuer.token(**claims))
        assert status == 0, said
        assert "signature, audience and times: good" in said
        assert "rule 1: does not: the claim ref is 'refs/pull/7/merge', and it wants refs/heads/main" in said
        assert "rule 2: lets it in: push,read on pulls" in said
        # What is not signed is not trusted, and yet rules can be tried with it.
        status, said = check(OTHER_RSA.sign(claims_of(issuer.url, **claims)))
        assert status == 1
        assert "not taken: no key of the issuer has signed it" in said
        assert "rule 2: would let it in: push,read on pulls" in said
        status, said = check(OTHER_RSA.sign(claims_of(issuer.url, **claims)), "--json")
        assert json.loads(said)["grants"] == []
        assert status == 1
        assert check(issuer.token(exp=1, nbf=0, iat=0))[0] == 1
        assert check("x.y.z")[0] == 1
        environment = {"JOB_TOKEN": issuer.token(**claims)}
        assert run_client(daemon, ("oidc", "check", "env:JOB_TOKEN", *config), environment).returncode == 0
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        for source, words in (("/nowhere", "/nowhere: No such file"), (str(tmp_path / "binary"), "binary: not text")):
            done = run_client(daemon, ("oidc", "check", source, *config), {})
            assert (done.returncode, words in done.stderr) == (1, True)
        # The doctor asks the issuer as well.
        done = run_client(daemon, ("doctor", "--json", *config), {})
        assert f"1 of {issuer.url}, for RS256" in done.stdout
