"""What cannot be run here: containers, compose and Kubernetes are held against their tools' own schemas and rules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import ServiceSettings

DEPLOY = Path(__file__).parent.parent / "deploy"
ROOT = DEPLOY.parent
BIN = Path(sys.executable).parent
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
CONTAINERFILES = sorted(set((DEPLOY / "container").glob("*")) - {DEPLOY / "container" / "Containerfile.dockerignore"})


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_yaml_is_written_well() -> None:
    run(BIN / "yamllint", "-s", "-c", DEPLOY / ".yamllint.yaml", DEPLOY)


@pytest.mark.parametrize("version", ["1.28", "1.31"])
def test_kubernetes_knows_every_word_of_the_manifests(version: str) -> None:
    assert len(MANIFESTS) >= 7
    run(BIN / "kubernetes-validate", "--strict", "--quiet", "-k", version, *MANIFESTS)


def objects() -> list[dict[str, Any]]:
    return [one for file in MANIFESTS for one in yaml.safe_load_all(file.read_text()) if one]


def pods() -> list[tuple[str, dict[str, Any]]]:
    return [
        (one["metadata"]["name"], one["spec"]["template"]["spec"])
        for one in objects()
        if one["kind"] in ("Deployment", "StatefulSet")
    ]


def test_every_pod_meets_the_restricted_profile() -> None:
    """What the namespace's label demands, and a read-only root, limits and a probe besides."""
    assert {name for name, _ in pods()} >= {"qianyan", "postgres", "redis", "slapd", "prometheus", "grafana"}
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert not container["image"].endswith(":latest"), name
            assert ":" in container["image"], name
        for container in pod["containers"]:
            assert "readinessProbe" in container, name


def test_what_pods_mount_is_there_and_services_find_them() -> None:
    known = objects()
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in known if "template" in one.get("spec", {})]
    for one in known:
        if one["kind"] == "Service":
            assert one["spec"]["selector"] in labels, one["metadata"]["name"]
        if one["kind"] in ("Deployment", "StatefulSet"):
            assert one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"]
    for name, pod in pods():
        claims = [
            claim["metadata"]["name"]
            for one in known
            if one["metadata"]["name"] == name
            for claim in one.get("spec", {}).get("volumeClaimTemplates", [])
        ]
        there = {volume["name"] for volume in pod.get("volumes", [])} | set(claims)
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= there, name


def test_its_settings_are_settings_of_ours() -> None:
    (held,) = [o["data"]["qianyan.toml"] for o in objects() if "qianyan.toml" in o.get("data", {})]
    settings = ServiceSettings.model_validate(tomllib.loads(held))
    assert settings.store.url is not None
    ((_, pod),) = [found for found in pods() if found[0] == "qianyan"]
    (container,) = pod["containers"]
    ports = {port["containerPort"] for port in container["ports"]}
    assert ports == {settings.public.port, settings.private.port}
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", "what waits for the store must not be killed"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz?ignore=crl"
    grace_s = pod["terminationGracePeriodSeconds"]
    assert grace_s > settings.server.stop_timeout_s + 20, "a stop answers what was accepted"


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.name)
def test_hadolint_accepts_the_containerfile(file: Path) -> None:
    run(BIN / "hadolint", file)


def test_the_image_is_not_roots_and_has_what_it_is_built_from() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text()
    stages = text.split("\nFROM ")
    assert len(stages) == 3
    assert "gcc" not in stages[2], "the compiler stays behind"
    assert re.search(r"^USER 10001:10001$", stages[2], re.MULTILINE)
    assert "HEALTHCHECK" in stages[2]
    lines = (DEPLOY / "container" / "Containerfile.dockerignore").read_text().splitlines()
    assert "*" in lines
    for name in [line[1:] for line in lines if line.startswith("!")]:
        assert (ROOT / name).exists(), name
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert {f"!{name}" for name in packages} <= set(lines), "a package that the image would lack"


def composed() -> dict[str, Any]:
    """The compose file with everything filled in, as docker-compose reads it."""
    read: dict[str, Any] = yaml.safe_load(run("docker-compose", "-f", "compose.yaml", "config", cwd=DEPLOY / "compose"))
    return read


def test_compose_reads_the_compose_file() -> None:
    services = composed()["services"]
    assert set(services) == {"qianyan", "postgres", "redis", "slapd", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), f"{name} is published to everybody"
    text = (DEPLOY / "compose" / "compose.yaml").read_text()
    for part in re.findall(r"^ +- (\.[./][^:]*):", text, re.MULTILINE):
        assert (DEPLOY / "compose" / part).exists(), part


def test_compose_and_kubernetes_ask_prometheus_for_the_same_as_the_example() -> None:
    for file in (DEPLOY / "compose" / "prometheus.yml",):
        run("promtool", "check", "config", "--syntax-only", file)
    (held,) = [o["data"]["prometheus.yml"] for o in objects() if "prometheus.yml" in o.get("data", {})]
    settings = yaml.safe_load(held)
    assert [job["job_name"] for job in settings["scrape_configs"]] == ["qianyan"], "the rules ask for that job"
    assert json.loads((DEPLOY / "monitoring" / "grafana-dashboard.json").read_text())["uid"] == "qianyan"
