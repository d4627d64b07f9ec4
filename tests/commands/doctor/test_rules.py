"""What a configuration says of clients: limits, policies and certificates that lock out those who should get in."""

import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from certificates import Pair, make_certificate
from faulty_cache import bad
from lab import Lab
from server import settings_of

from harmonia_py.commands.doctor import certificate, limits, policy
from harmonia_py.commands.doctor.finding import Finding, Verdict
from harmonia_py.commands.doctor.local import LocalView
from harmonia_py.config.settings import Config
from harmonia_py.nix.signing import SecretKey


def config(**settings: Any) -> Config:
    return msgspec.convert(settings, Config)


class TestLimits:
    def test_the_defaults_stand_in_nobodys_way(self) -> None:
        assert limits.judge(config()) == []
        assert limits.judge(config(upstream=[{"url": "https://cache.nixos.org"}])) == []

    def test_fewer_connections_than_one_client_opens(self) -> None:
        assert limits.judge(config(workers=1, max_connections=25)) == []
        assert bad(limits.judge(config(workers=2, max_connections=12))) == [
            ("max_connections", "warning", "24 connections at once: one Nix client opens 25 (http-connections)")
        ]

    @pytest.mark.parametrize(
        ("table", "verdict"),
        [
            ({"requests_per_second": 1}, Verdict.WARNING),  # ten at once
            ({"requests_per_second": 1000, "burst": 24}, Verdict.WARNING),
            ({"requests_per_second": 3}, Verdict.WARNING),
            ({"requests_per_second": 3, "burst": 2000}, Verdict.OK),
            ({"requests_per_second": 50}, Verdict.OK),
        ],
    )
    def test_requests_are_enough_for_a_system_or_not(self, table: dict[str, Any], verdict: Verdict) -> None:
        (found,) = limits.judge(config(limits=table))
        assert (found.check, found.verdict) == ("requests_per_second", verdict)

    @pytest.mark.parametrize(
        ("bind", "trusted", "verdicts"),
        [
            ("127.0.0.1:5000", [], ["warning"]),
            ("[::1]:5000", [], ["warning"]),
            ("localhost:5000", ["127.0.0.1"], []),
            ("[::]:5000", [], []),
            ("unix:/run/socket", [], ["warning"]),
            ("unix:/run/socket", ["unix"], []),
            ("nonsense", [], []),
            ("[::]:5000", ["0.0.0.0/0"], ["warning"]),
            ("[::]:5000", ["::/0", "10.0.0.0/8"], ["warning"]),
        ],
    )
    def test_behind_a_proxy_clients_are_told_apart_or_not(
        self, bind: str, trusted: list[str], verdicts: list[str]
    ) -> None:
        table = {"requests_per_second": 100, "trusted_proxies": trusted}
        found = bad(limits.judge(config(bind=bind, limits=table)))
        assert [(check, verdict) for check, verdict, _ in found] == [("trusted_proxies", one) for one in verdicts]

    def test_times_and_rates_that_cut_those_who_are_slow(self) -> None:
        settings = config(
            upstream=[{"url": "https://cache.nixos.org"}], limits={"request_timeout": 2, "min_rate": 10_000_000}
        )
        assert [one[:2] for one in bad(limits.judge(settings))] == [
            ("request_timeout", "failure"),
            ("min_rate", "warning"),
        ]


class TestPolicy:
    async def look(self, settings: Config) -> list[Finding]:
        view = LocalView(settings, {})
        (check,) = [one for section in view.sections() for one in section.checks if one.name == "policy"]
        return list(await check.run())

    async def test_who_serves_everything_needs_no_advice(self) -> None:
        assert await self.look(config()) == []

    async def test_what_was_built_here_is_served(self, daemon: Lab) -> None:
        (found,) = await self.look(config(**settings_of(daemon), policy={"serve": "ultimate"}))
        assert found.verdict is Verdict.OK
        assert "paths that were looked at are served" in found.what

    async def test_a_key_that_nothing_is_signed_with_hides_everything(self, daemon: Lab) -> None:
        key = str(SecretKey.generate("nobody-1").public_key)
        settings = config(**settings_of(daemon), policy={"serve": "signed", "public_keys": [key]})
        (found,) = await self.look(settings)
        assert found.verdict is Verdict.FAILURE
        assert found.what.startswith('serve = "signed": 0 of ')
        assert found.remedy is not None
        assert "nix path-info --sigs" in found.remedy

    async def test_signatures_that_this_cache_adds_do_not_count(self, daemon: Lab) -> None:
        keys = daemon.secret_key("ours-1")
        settings = config(**settings_of(daemon, keys), policy={"serve": "signed", "public_keys": [keys.public]})
        assert [one[:2] for one in bad(await self.look(settings))] == [("policy", "warning"), ("policy", "failure")]
        daemon.nix("store", "sign", "--key-file", str(keys.secret_file), "--all")
        assert [one[:2] for one in bad(await self.look(settings))] == [("policy", "warning")]

    @pytest.mark.parametrize("serve", ["ultimate", "signed"])
    async def test_an_upstream_that_the_policy_hides_is_a_contradiction(self, serve: str) -> None:
        key = str(SecretKey.generate("other-1").public_key)
        table = {"serve": serve} | ({"public_keys": [key]} if serve == "signed" else {})
        settings = config(upstream=[{"url": "https://cache.nixos.org"}], policy=table)
        ((check, verdict, what),) = bad(policy.judge(settings, []))
        assert (check, verdict) == ("policy", "warning")
        assert what.startswith(f'serve = "{serve}" hides all that cache.nixos.org has')

    async def test_an_upstream_whose_key_the_policy_knows_is_none(self) -> None:
        upstream = {"url": "https://cache.nixos.org"}
        keys = [str(key) for key in config(upstream=[upstream]).upstream[0].keys]
        settings = config(upstream=[upstream], policy={"serve": "signed", "public_keys": keys})
        assert policy.judge(settings, []) == []

    async def test_roots_that_lead_nowhere(self, daemon: Lab, tmp_path: Path) -> None:
        nowhere = str(tmp_path / "nowhere")
        top = daemon.full(daemon.closure.top)
        found = await self.look(config(**settings_of(daemon), policy={"serve": "roots", "roots": [nowhere, top]}))
        assert bad(found) == [("policy", "warning", f"roots: {nowhere}: leads to no store path")]
        found = await self.look(config(**settings_of(daemon), policy={"serve": "roots", "roots": [nowhere]}))
        assert [one[1] for one in bad(found)] == ["warning", "failure"]


def days(count: float) -> dict[str, object]:
    then = datetime.fromtimestamp(time.time(), UTC) + timedelta(days=count)
    return {"notAfter": then.strftime("%b %d %H:%M:%S %Y GMT")}


class TestCertificate:
    def test_how_long_one_is_good(self) -> None:
        now = time.time()
        assert bad(certificate.judge(days(20.5), now)) == []
        assert bad(certificate.judge(days(3.5), now)) == [("certificate", "warning", "good for 3 days only")]
        assert bad(certificate.judge(days(-1.5), now)) == [("certificate", "warning", "good for -2 days only")]
        assert certificate.judge({}, now) == []

    def test_our_own_is_read_from_its_file(self, tmp_path: Path) -> None:
        pair = make_certificate(tmp_path, "one")
        assert bad(certificate.look_at(pair.chain, pair.key, "localhost")) == [
            ("certificate", "warning", "good for 1 days only")  # tests have them made for two days
        ]

    def test_one_for_another_name_than_clients_use(self, tmp_path: Path) -> None:
        pair = make_certificate(tmp_path, "one")
        found = bad(certificate.look_at(pair.chain, pair.key, "cache.example.org"))
        assert ("certificate", "failure", f"{pair.chain}: is not for cache.example.org, the name in base_url") in found

    def test_one_that_has_expired(self, tmp_path: Path) -> None:
        pair = expired(tmp_path)
        assert bad(certificate.look_at(pair.chain, pair.key, None)) == [
            ("certificate", "failure", f"{pair.chain}: certificate has expired")
        ]

    def test_a_key_of_another_certificate(self, tmp_path: Path) -> None:
        one, other = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "other")
        ((_, verdict, what),) = bad(certificate.look_at(one.chain, other.key, None))
        assert verdict == "failure"
        assert what.endswith("the key is not that of the certificate")


def expired(directory: Path) -> Pair:
    """A certificate that was good for a day, twenty years ago."""
    pair = make_certificate(directory, "expired")
    request = directory / "request"
    openssl("req", "-new", "-key", str(pair.key), "-subj", "/CN=localhost", "-out", str(request))
    (directory / "database").touch()
    (directory / "ca.conf").write_text(
        f"[ca]\ndefault_ca = all\n[all]\ndatabase = {directory}/database\nnew_certs_dir = {directory}\n"
        "default_md = sha256\nrand_serial = yes\npolicy = any\n[any]\ncommonName = supplied\n"
    )
    when = ("-startdate", "20060101000000Z", "-enddate", "20060102000000Z")
    signed = ("-selfsign", "-keyfile", str(pair.key), "-in", str(request), "-out", str(pair.chain))
    openssl("ca", "-batch", "-notext", "-config", str(directory / "ca.conf"), *when, *signed)
    return pair


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
