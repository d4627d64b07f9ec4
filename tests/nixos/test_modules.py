"""The modules for NixOS, evaluated by the real Nix against a small stand-in for nixpkgs (lib.nix, evaluate.nix)."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lab import Lab

from harmonia_py.config import file as config_file
from harmonia_py.config import settings as config
from harmonia_py.server import serve

PROJECT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
EVALUATE = ("nix-instantiate", "--eval", "--strict", "--json", str(HERE / "evaluate.nix"))


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


def _arguments(module: str, service: str, given: dict[str, Any]) -> list[str]:
    values = {
        "project": str(PROJECT),
        "python": sys.executable,
        "module": str(PROJECT / "nixos" / module),
        "service": service,
        "given": json.dumps({"enable": True} | given),
    }
    return [word for name, value in values.items() for word in ("--argstr", name, value)]


def evaluate(nix: Lab, given: dict[str, Any], module: str = "module.nix", service: str = "harmonia-py") -> Any:
    """What the module says, with each derivation as its store path."""
    arguments = _arguments(module, service, given)
    return json.loads(nix.run(*EVALUATE, *arguments).stdout)


def refused(nix: Lab, given: dict[str, Any]) -> str:
    arguments = _arguments("module.nix", "harmonia-py", given)
    told = nix.run(*EVALUATE, *arguments, check=False)
    assert told.returncode != 0
    return told.stderr.decode()


def build_configuration(nix: Lab, given: dict[str, Any]) -> subprocess.CompletedProcess[bytes]:
    """Build `harmonia.toml`, which checks it."""
    return nix.run(
        "nix-build",
        *("--no-out-link", str(HERE / "evaluate.nix"), *_arguments("module.nix", "harmonia-py", given)),
        *("--attr", 'environment.etc."harmonia-py/harmonia.toml".source'),
        check=False,
    )


def built_file(nix: Lab, given: dict[str, Any]) -> Path:
    done = build_configuration(nix, given)
    assert done.returncode == 0, done.stderr.decode()
    return Path(done.stdout.decode().strip())


def unit(nix: Lab, given: dict[str, Any]) -> dict[str, Any]:
    service: dict[str, Any] = evaluate(nix, given)["systemd"]["services"]["harmonia-py"]
    return service


EXAMPLE = PROJECT / "docs/how-to/nixos-nginx.nix"
REPLICA = PROJECT / "docs/how-to/nixos-replicas.nix"


def example(nix: Lab, attribute: str, file: Path = EXAMPLE) -> Any:
    """What an example of the documentation says under `attribute`."""
    expression = f"(import {file} {{ harmonia-py.nixosModules.default = null; }}).{attribute}"
    return json.loads(nix.run("nix-instantiate", "--eval", "--strict", "--json", "--expr", expression).stdout)


def test_the_example_with_nginx_is_a_service_that_nginx_alone_reaches(nix: Lab) -> None:
    settings = msgspec.toml.decode(built_file(nix, example(nix, "services.harmonia-py")).read_bytes())
    (server,) = example(nix, "services.nginx.upstreams.harmonia-py.servers")
    assert settings["bind"] == [server]
    assert f"https://{next(iter(example(nix, 'services.nginx.virtualHosts')))}" == settings["base_url"]


def test_the_example_of_a_replica_has_its_secrets_from_credentials(nix: Lab) -> None:
    given = example(nix, "services.harmonia-py", REPLICA)
    settings = msgspec.toml.decode(built_file(nix, given).read_bytes())
    named = (
        settings["database"]["password_file"],
        settings["storage"]["credentials_file"],
        settings["key_encryption_file"],
    )
    assert {Path(file).name for file in named} == set(given["credentials"])


def test_the_example_asks_nginx_for_what_the_page_on_proxies_does(nix: Lab) -> None:
    host = example(nix, 'services.nginx.virtualHosts."cache.example.org"')
    told = {line.strip() for line in host["locations"]["/"]["extraConfig"].splitlines() if line.strip()}
    block = (PROJECT / "docs/how-to/nginx.conf").read_text().partition("location / {")[2].partition("}")[0]
    lines = {line.strip() for line in block.splitlines() if line.strip() and not line.strip().startswith("#")}
    assert told == {line for line in lines if not line.startswith("proxy_pass ")}


@pytest.mark.parametrize(
    "file",
    [*sorted((PROJECT / "nixos").rglob("*.nix")), PROJECT / "flake.nix", EXAMPLE, REPLICA],
    ids=lambda file: file.name,
)
def test_every_file_parses(nix: Lab, file: Path) -> None:
    nix.run("nix-instantiate", "--parse", str(file))


def test_without_enable_nothing_happens(nix: Lab) -> None:
    assert evaluate(nix, {"enable": False}) == {}


def test_the_plain_service_is_started_by_its_socket_and_has_no_network(nix: Lab) -> None:
    everything = evaluate(nix, {})
    socket = everything["systemd"]["sockets"]["harmonia-py"]
    assert socket["listenStreams"] == ["[::]:5000"]
    assert socket["wantedBy"] == ["sockets.target"]
    service = everything["systemd"]["services"]["harmonia-py"]
    assert service["wantedBy"] == []
    assert service["requires"] == ["harmonia-py.socket"]
    assert service["serviceConfig"]["PrivateNetwork"] is True
    assert service["serviceConfig"]["ExecStart"].endswith(
        "/bin/harmonia-py serve --config /etc/harmonia-py/harmonia.toml"
    )
    assert everything["networking"]["firewall"]["allowedTCPPorts"] == {}
    assert "LoadCredential" not in service["serviceConfig"]


def test_the_settings_become_the_file_that_the_daemon_reads(nix: Lab) -> None:
    settings = {"bind": ["127.0.0.1:8080", "unix:/run/cache.sock"], "priority": 12, "cache": {"max_size": "20 GiB"}}
    upstreams = ["https://cache.nixos.org", {"url": "http://one.example", "public_keys": [_key()], "priority": 10}]
    file = built_file(nix, {"settings": settings, "upstreams": upstreams})
    assert tomllib.loads(file.read_text()) == settings | {"upstream": [{"url": upstreams[0]}, upstreams[1]]}
    loaded = config_file.load(file, {}, {})
    assert loaded.priority == 12
    assert [one.label for one in loaded.upstream] == ["cache.nixos.org", "one.example"]


def _key() -> str:
    return "one.example-1:+sVkOldt+HUJ+UaHkmJu8OFH+DwUqMuPggGhdhp870Y="


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prioritty": 12}, "prioritty: unknown key"),
        ({"workers": 0}, "workers: "),
        ({"bind": "nowhere"}, "bind: "),
        ({"upstream": [{"url": "https://unknown.example"}]}, "public_keys: is missing"),
    ],
)
def test_a_configuration_that_is_wrong_is_not_built(nix: Lab, settings: dict[str, Any], message: str) -> None:
    done = build_configuration(nix, {"settings": settings})
    assert done.returncode != 0
    assert message in done.stderr.decode()


def test_declared_caches_become_tables_of_the_file(nix: Lab) -> None:
    caches = {"team": {"max_size": "200 GiB"}, "open": {"public": True, "caches": ["default"]}, "default": {}}
    file = built_file(nix, {"caches": caches})
    assert tomllib.loads(file.read_text()) == {"caches": caches}
    assert "looks through itself" in build_configuration(nix, {"caches": {"a": {"caches": ["a"]}}}).stderr.decode()
    both = evaluate(nix, {"caches": {"a": {}}, "settings": {"caches": {"b": {}}}})
    assert [one["message"].rpartition(", ")[2] for one in both["assertions"] if not one["assertion"]] == [
        "not in both."
    ]


def test_keys_and_secrets_are_handed_over_by_systemd(nix: Lab) -> None:
    given = {"signKeyPaths": ["/run/keys/one", "/run/keys/two"], "credentials": {"netrc": "/run/keys/netrc"}}
    service = unit(nix, given)
    assert service["serviceConfig"]["LoadCredential"] == [
        "sign-key-0:/run/keys/one",
        "sign-key-1:/run/keys/two",
        "netrc:/run/keys/netrc",
    ]
    assert service["environment"] == {"SIGN_KEY_PATHS": "%d/sign-key-0 %d/sign-key-1"}


def test_keys_in_the_settings_are_refused_with_the_way_out(nix: Lab) -> None:
    failed = [
        one["message"]
        for one in evaluate(nix, {"settings": {"sign_key_paths": ["/run/keys/one"]}})["assertions"]
        if not one["assertion"]
    ]
    assert len(failed) == 1
    assert "signKeyPaths" in failed[0]


def test_a_mirror_waits_for_the_network_and_has_it(nix: Lab) -> None:
    service = unit(nix, {"upstreams": ["https://cache.nixos.org"]})
    assert "PrivateNetwork" not in service["serviceConfig"]
    assert service["serviceConfig"]["RestrictAddressFamilies"] == ["AF_UNIX", "AF_INET", "AF_INET6"]
    assert "network-online.target" in service["wants"]


def test_without_socket_activation_it_listens_by_itself(nix: Lab) -> None:
    everything = evaluate(nix, {"socketActivation": False, "openFirewall": True, "settings": {"bind": "0.0.0.0:80"}})
    assert everything["systemd"]["sockets"]["harmonia-py"] == {}
    service = everything["systemd"]["services"]["harmonia-py"]
    assert service["wantedBy"] == ["multi-user.target"]
    assert service["serviceConfig"]["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    assert everything["networking"]["firewall"]["allowedTCPPorts"] == [80]


def test_the_firewall_opens_for_each_port_once(nix: Lab) -> None:
    bind = ["[::]:5000", "127.0.0.1:5000", ":8080", "unix:/run/cache.sock"]
    everything = evaluate(nix, {"openFirewall": True, "settings": {"bind": bind}})
    assert everything["networking"]["firewall"]["allowedTCPPorts"] == [5000, 8080]
    assert everything["systemd"]["sockets"]["harmonia-py"]["listenStreams"] == [
        "[::]:5000",
        "127.0.0.1:5000",
        "8080",
        "/run/cache.sock",
    ]


def test_it_restarts_for_what_a_reload_cannot_change_and_reloads_for_the_rest(nix: Lab) -> None:
    every = {key: msgspec.to_builtins(getattr(config.Config(), key)) for key in serve._SET_AT_START}
    values = {key: "/etc/file" if value is None else value for key, value in every.items()}
    plain = unit(nix, {"settings": {"bind": values["bind"]}})
    other = unit(nix, {"settings": values})
    assert json.loads(other["restartTriggers"][0]) == values
    priority = unit(nix, {"settings": {"bind": values["bind"], "priority": 3}})
    assert priority["restartTriggers"] == plain["restartTriggers"]
    assert priority["reloadTriggers"] != plain["reloadTriggers"]


@pytest.mark.parametrize("given", [{"nothing": 1}, {"signKeyPaths": "/a/file"}, {"upstreams": [7]}])
def test_an_option_that_is_unknown_or_of_another_type_is_refused(nix: Lab, given: dict[str, Any]) -> None:
    assert next(iter(given)) in refused(nix, given)


def _of_unit_file(name: str = "harmonia-py.service") -> dict[str, list[str]]:
    """`[Service]` of the unit for other distributions."""
    text = (PROJECT / "systemd" / name).read_text()
    lines = re.findall(r"^(\w+)=(.*)$", text.partition("[Service]")[2].partition("[Install]")[0], re.MULTILINE)
    found: dict[str, list[str]] = {}
    for key, value in lines:
        found.setdefault(key, []).append(value)
    return found


def _as_text(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def test_it_is_as_confined_as_elsewhere(nix: Lab) -> None:
    here = {
        key: [_as_text(one) for one in value] if isinstance(value, list) else [_as_text(value)]
        for key, value in unit(nix, {})["serviceConfig"].items()
    }
    there = _of_unit_file()
    # What is found elsewhere on NixOS; and its nix-daemon's socket is open to every user.
    for key in ("ExecStart", "ExecReload", "WorkingDirectory", "SupplementaryGroups"):
        here.pop(key, None)
        there.pop(key)
    # The package of NixOS does not unpack itself: there nothing needs to run in the cache directory.
    there.pop("ExecPaths")
    assert here == there


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
@pytest.mark.parametrize(("given", "limit"), [({}, 1.5), ({"upstreams": ["https://cache.nixos.org"]}, 2.2)])
def test_systemd_calls_it_safe(nix: Lab, tmp_path: Path, given: dict[str, Any], limit: float) -> None:
    lines = ["[Service]"]
    for key, value in unit(nix, given)["serviceConfig"].items():
        if isinstance(value, list):
            lines += [f"{key}={one}" for one in value]
        else:
            lines.append(f"{key}={'/bin/true' if key == 'ExecStart' else _as_text(value)}")
    file = tmp_path / "harmonia-py.service"
    file.write_text("\n".join(lines) + "\n")
    report = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", report.stdout)
    assert found is not None
    assert float(found[1]) <= limit


def test_what_is_built_is_written_down_by_the_hook_and_pushed_by_the_service(nix: Lab) -> None:
    given = {"cache": "https://cache.example.org/team", "tokenFile": "/run/keys/token"}
    told = evaluate(nix, given, "push.nix", "harmonia-py-push")
    service = told["systemd"]["services"]["harmonia-py-push"]
    here = {
        key: [_as_text(one) for one in value] if isinstance(value, list) else [_as_text(value)]
        for key, value in service["serviceConfig"].items()
    }
    there = _of_unit_file("harmonia-py-push.service")
    assert here["ExecStart"][0].endswith(
        "/bin/harmonia-py hook run https://cache.example.org/team --queue /var/lib/harmonia-py-push --deadline 60"
    )
    assert there.pop("Environment") == [f"HARMONIA_PY_TOKEN_FILE={service['environment']['HARMONIA_PY_TOKEN_FILE']}"]
    assert here.pop("LoadCredential") == ["token:/run/keys/token"]
    for key in ("ExecStart", "EnvironmentFile", "LoadCredential"):
        here.pop(key, None)
        there.pop(key)
    assert here == there
    done = nix.run(
        "nix-build",
        *("--no-out-link", str(HERE / "evaluate.nix"), *_arguments("push.nix", "harmonia-py-push", given)),
        *("--attr", "nix.settings.post-build-hook"),
    )
    hook = Path(done.stdout.decode().strip()).read_text()
    assert "/bin/harmonia-py hook add --queue /var/lib/harmonia-py-push || true" in hook


def test_a_client_asks_the_cache_and_forgets_soon_what_it_does_not_have(nix: Lab) -> None:
    given = {"caches": {"http://server:5000": [_key()]}, "netrcFile": "/etc/nix/netrc"}
    told = evaluate(nix, given, "nix-client.nix", "harmonia-py-client")
    settings = told["nix"]["settings"]
    assert settings["substituters"] == ["http://server:5000"]
    assert settings["trusted-public-keys"] == [_key()]
    assert settings["narinfo-cache-negative-ttl"] == 60
    assert settings["netrc-file"] == "/etc/nix/netrc"
    # Nix itself knows every one of them.
    nix.run(
        "nix", "show-config", *[word for key, value in settings.items() for word in ("--option", key, _word(value))]
    )


def _word(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value).lower()


def test_the_package_has_every_dependency() -> None:
    text = (PROJECT / "nixos/package.nix").read_text()
    listed = set(re.findall(r"^      ([\w-]+)$", text.partition("dependencies =")[2].partition("];")[0], re.MULTILINE))
    listed |= set(re.findall(r'optional \(pythonOlder "[\d.]+"\) ([\w-]+);', text))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    # nixpkgs writes names without dots and capitals.
    wanted = {re.split(r"[>=<; ]", one)[0].replace(".", "-").lower() for one in project["dependencies"]}
    assert listed == wanted


def test_the_key_of_attics_tokens_is_handed_over_by_systemd_and_switches_its_api_on(nix: Lab) -> None:
    given = {"atticEnvironmentFile": "/run/keys/atticd.env"}
    assert tomllib.loads(built_file(nix, given).read_text()) == {"attic": {"enabled": True}}
    assert unit(nix, given)["serviceConfig"]["EnvironmentFile"] == "/run/keys/atticd.env"
    assert "EnvironmentFile" not in unit(nix, {})["serviceConfig"]
