"""What can be said of the container's files without an engine that builds them; test_image.py has one."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from lab import Lab

from harmonia_py.config import file as config_file

PROJECT = Path(__file__).parent.parent.parent
FOLDER = PROJECT / "container"


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile, with its arguments."""
    text = (FOLDER / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_every_file_that_is_copied_exists() -> None:
    copied = [arguments for name, arguments in instructions() if name == "COPY" and "--from" not in arguments]
    for arguments in copied:
        for source in shlex.split(arguments)[:-1]:
            assert (PROJECT / source).exists(), source


def test_what_is_copied_and_nothing_else_is_sent_to_the_engine() -> None:
    copied = [arguments for name, arguments in instructions() if name == "COPY" and "--from" not in arguments]
    sources = {source for arguments in copied for source in shlex.split(arguments)[:-1]}
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert [line for line in lines if line.startswith("*")] == ["*", "**/__pycache__"]
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == sources


def test_what_runs_is_nobody_and_can_be_asked_how_it_is() -> None:
    last = dict(instructions())
    assert last["USER"] == "65532:65532"
    command = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    compile(command[2], "HEALTHCHECK", "exec")
    assert json.loads(last["ENTRYPOINT"])[-1] == "harmonia_py.cli"
    assert json.loads(last["CMD"]) == ["serve"]


def test_each_base_has_a_tag_and_the_pythons_are_the_same() -> None:
    bases = [arguments.split()[0] for name, arguments in instructions() if name == "FROM"]
    assert all(":" in base for base in bases)
    # Debian 12 has Python 3.11: native code built on the one must run on the other.
    assert "3.11-slim-bookworm" in bases[0]
    assert "python3-debian12" in bases[1]


def test_the_configuration_is_one_and_the_compose_file_mounts_it() -> None:
    loaded = config_file.load(FOLDER / "harmonia.toml", {}, {})
    assert [one.url for one in loaded.upstream] == ["https://cache.nixos.org"]
    compose = (FOLDER / "compose.yaml").read_text()
    for source, target in re.findall(r"^ +- (\./[^:]+):([^:]+):ro$", compose, re.MULTILINE):
        assert (FOLDER / source).is_file()
        assert target in compose.partition("command:")[2].partition("\n")[0]


def test_replicas_have_one_configuration_and_secrets_that_the_compose_file_gives_them() -> None:
    folder = FOLDER / "replicas"
    loaded = config_file.load(folder / "harmonia.toml", {}, {})
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    for name in ("replica-1", "replica-2"):
        replica = compose["services"][name]
        given = {f"/run/secrets/{secret}" for secret in replica["secrets"]}
        assert given == {loaded.database.password_file, loaded.storage.credentials_file}
        assert f"server {name}:5000" in (folder / "nginx.conf").read_text()
    mounts = [one for service in compose["services"].values() for one in service.get("volumes", ()) if one[0] == "."]
    assert all((folder / mount.partition(":")[0]).is_file() for mount in mounts)
    assert set(compose["secrets"]) >= {
        secret for one in compose["services"].values() for secret in one.get("secrets", ())
    }


def kubernetes(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    (found,) = [document for document in documents if document["kind"] == kind]
    return dict(found)


def test_kubernetes_runs_the_image_as_it_was_made_to_run() -> None:
    image = instructions()
    pod = kubernetes("StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == dict(image)["USER"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == dict(image)["EXPOSE"]
    mounted = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert set(json.loads(dict(image)["VOLUME"])) <= set(mounted)
    claims = {one["metadata"]["name"] for one in kubernetes("StatefulSet")["spec"]["volumeClaimTemplates"]}
    assert {*claims, *(one["name"] for one in pod["volumes"])} == set(mounted.values())


def test_kubernetes_configures_it_with_what_it_understands(tmp_path: Path) -> None:
    file = tmp_path / "harmonia.toml"
    file.write_text(kubernetes("ConfigMap")["data"]["harmonia.toml"])
    loaded = config_file.load(file, {}, {})
    assert [one.url for one in loaded.upstream] == ["https://cache.nixos.org"]
    template = kubernetes("StatefulSet")["spec"]["template"]["spec"]
    assert template["terminationGracePeriodSeconds"] > loaded.shutdown_timeout
    assert template["containers"][0]["args"] == ["serve", "--config", "/etc/harmonia-py/harmonia.toml"]


def test_kubernetes_finds_the_pod_by_its_labels() -> None:
    labels = kubernetes("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert kubernetes("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert kubernetes("Service")["spec"]["selector"] == labels
    assert kubernetes("StatefulSet")["spec"]["serviceName"] == kubernetes("Service")["metadata"]["name"]


def test_nix_knows_every_setting_for_clients(lab: Lab) -> None:
    settings = re.findall(r"^([\w-]+) = (.*)$", (FOLDER / "nix.conf").read_text(), re.MULTILINE)
    words = [word for key, value in settings for word in ("--option", key, value)]
    done = lab.run("nix", "show-config", *words)
    assert b"unknown setting" not in done.stderr
