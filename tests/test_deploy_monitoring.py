"""The rules and the dashboard ask for what the service really says; each alert rings when it should, and only then."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from signer._native import sm2
from tests.hsm_world import make_devices
from tests.running import Installation, Service, free_port

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "qianyan.rules.yml"
DASHBOARD = MONITORING / "grafana-dashboard.json"
JOB = 'job="qianyan",instance="a"'


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Everything that is asked of Prometheus, by where it stands."""
    found = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    return found


def filled(expression: str) -> str:
    return expression.replace("$job", "qianyan").replace("$instance", ".*")


# ---- against a running service, and a running Prometheus


class Workers(Service):
    arguments = ("--workers", "2")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With all that has metrics of its own: TLS, workers, a hardware module; Redis and a directory, both down."""
    directory = tmp_path_factory.mktemp("monitored")
    installation = Installation(directory / "var", tls="on").made()
    (device,) = make_devices(directory, 1, sm2.PrivateKey.generate())
    with installation.config.open("a") as file:
        file.write(f'\n[hsm]\npassword_file = "{directory / "password"}"\n')
        file.write(f'[[hsm.devices]]\nname = "d0"\nlibrary = "{device.library}"\n')
        file.write(f'[redis]\nurl = "redis://127.0.0.1:{free_port()}/0"\n')
        file.write(f'[[directory.targets]]\nname = "main"\nurl = "ldap://127.0.0.1:{free_port()}"\nbase = "dc=x"\n')
    with Workers(installation) as running:
        yield running


def exposed(service: Service) -> set[str]:
    """The names of the samples that the service can give, labels or none yet."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", service.call("GET", "/metrics").body.decode(), re.MULTILINE):
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def test_every_metric_that_is_asked_for_exists(service: Service) -> None:
    known = exposed(service) | {rule["record"] for rule in rules() if "record" in rule} | {"up", "ALERTS"}
    asked = {}
    for where, expression in expressions().items():
        bare = re.sub(r'"[^"]*"|\b(?:by|on|without) \([^)]*\)|\{[^}]*\}', " ", expression)
        for name in re.findall(r"\b(?:qianyan|process)[a-z0-9_:]*|\bup\b|\bALERTS\b", bare):
            asked[name] = where
    assert len(asked) > 50
    assert {name: where for name, where in asked.items() if name not in known} == {}


@pytest.fixture(scope="module")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prometheus with the example's settings, asking our service; every rule has been evaluated."""
    directory = tmp_path_factory.mktemp("prometheus")
    settings = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(directory / RULES.name)]
    (directory / RULES.name).write_text(RULES.read_text().replace("interval: 30s", "interval: 1s"))
    (job,) = settings["scrape_configs"]
    job["authorization"]["credentials_file"] = str(service.installation.directory / "demo-token")
    job["tls_config"]["ca_file"] = str(service.installation.directory / "tls-ca.pem")
    job["static_configs"][0]["targets"] = [urllib.parse.urlsplit(service.private).netloc]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(settings))
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
    ]
    log = (directory / "log").open("wb")
    process = subprocess.Popen(
        [*command, f"--web.listen-address={url.removeprefix('http://')}"], stderr=log, stdout=log
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                if ask(url, "up")["data"]["result"] and all(rule["lastEvaluation"][:1] == "2" for rule in loaded(url)):
                    break
            except OSError:
                assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, (directory / "log").read_text()
            threading.Event().wait(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def ask(url: str, query: str) -> Any:
    return get(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")


def loaded(url: str) -> list[dict[str, Any]]:
    return [rule for group in get(f"{url}/api/v1/rules")["data"]["groups"] for rule in group["rules"]]


def test_prometheus_scrapes_and_evaluates_without_an_error(prometheus: str) -> None:
    (up,) = ask(prometheus, "up")["data"]["result"]
    assert up["metric"]["job"] == "qianyan"
    known = loaded(prometheus)
    assert {rule["name"] for rule in known} == {rule.get("alert") or rule["record"] for rule in rules()}
    assert [(rule["name"], rule.get("lastError")) for rule in known if rule["health"] != "ok"] == []
    for where, expression in expressions().items():
        assert ask(prometheus, filled(expression))["status"] == "success", where


def test_a_healthy_service_rings_nothing(service: Service, prometheus: str) -> None:
    assert service.get("/readyz").status == 200
    # Its Redis and its directory are down, and its disk is this machine's.
    known = {"QianyanDiskFills", "QianyanDiskFull", "QianyanRedisDown", "QianyanDirectoryLate"}
    deadline = time.monotonic() + 60
    while True:  # what was pending before the first scrape goes away with it
        ringing = {rule["name"] for rule in loaded(prometheus) if rule.get("state", "inactive") != "inactive"}
        if ringing <= known:
            return
        assert time.monotonic() < deadline, ringing
        threading.Event().wait(0.3)


# ---- each alert, by promtool


HEALTHY = {
    f"up{{{JOB}}}": "1x200",
    f"qianyan_crl_seconds_left{{{JOB}}}": "86000x200",
    f"qianyan_crl_age_seconds{{{JOB}}}": "400x200",
    f"qianyan_crl_missing{{{JOB}}}": "0x200",
    f'qianyan_crl_builds_total{{{JOB},outcome="published"}}': "0+1x200",
    f"qianyan_status_set_seconds_left{{{JOB}}}": "21000x200",
    f"qianyan_status_set_age_seconds{{{JOB}}}": "600x200",
    f"qianyan_status_set_missing{{{JOB}}}": "0x200",
    f"qianyan_status_set_judged_wrong{{{JOB}}}": "0x200",
    f"qianyan_feed_age_seconds{{{JOB}}}": "0.3x200",
    f'qianyan_feed_position{{{JOB},worker="0"}}': "100+10x200",
    f'qianyan_feed_position{{{JOB},worker="1"}}': "98+10x200",
    f"qianyan_replica_lag_seconds{{{JOB}}}": "0x200",
    f"qianyan_store_partition_years_ahead{{{JOB}}}": "3x200",
    f'qianyan_check_ok{{{JOB},check="store"}}': "1x200",
    f"qianyan_ocsp_probe_ok{{{JOB}}}": "1x200",
    f'qianyan_ocsp_requests_total{{{JOB},result="ok"}}': "0+1000x200",
    f'qianyan_ocsp_requests_total{{{JOB},result="busy"}}': "0+1x200",
    f'qianyan_http_requests_total{{{JOB},listener="public",route="/ocsp",status="200"}}': "0+1000x200",
    f'qianyan_http_requests_total{{{JOB},listener="public",route="/ocsp",status="503"}}': "0+1x200",
    f'qianyan_http_request_seconds_bucket{{{JOB},listener="public",route="/ocsp",le="1.0"}}': "0+1000x200",
    f'qianyan_http_request_seconds_bucket{{{JOB},listener="public",route="/ocsp",le="3.0"}}': "0+1000x200",
    f'qianyan_http_request_seconds_bucket{{{JOB},listener="public",route="/ocsp",le="+Inf"}}': "0+1000x200",
    f'qianyan_sign_refusals_total{{{JOB},code="sign_queue"}}': "5x200",
    f'qianyan_sign_refusals_total{{{JOB},code="sign_failed"}}': "5x200",
    f'qianyan_worker_up{{{JOB},worker="0"}}': "1x200",
    f'qianyan_worker_restarts{{{JOB},worker="0"}}': "3x200",
    f"process_start_time_seconds{{{JOB}}}": "1x200",
    f"process_open_fds{{{JOB}}}": "100x200",
    f"process_max_fds{{{JOB}}}": "1000x200",
    f"qianyan_watch_timestamp_seconds{{{JOB}}}": "0+60x200",
    f'qianyan_connections_closed_total{{{JOB},listener="public",reason="refused"}}': "2x200",
    f'qianyan_connections_closed_total{{{JOB},listener="public",reason="late"}}': "0+9x200",
    f'qianyan_credentials_refused_total{{{JOB},code="x"}}': "0+1x200",
    f"qianyan_clock_behind_seconds{{{JOB}}}": "0x200",
    f"qianyan_ocsp_signer_seconds_left{{{JOB}}}": "2600000x200",
    f'qianyan_status_set_signer_seconds_left{{{JOB},authority="issuing"}}': "2600000x200",
    f"qianyan_tls_certificate_seconds_left{{{JOB}}}": "2600000x200",
    f'qianyan_authority_seconds_left{{{JOB},authority="issuing"}}': "99999999x200",
    f'qianyan_hsm_in_service{{{JOB},device="d0"}}': "1x200",
    f'qianyan_hsm_in_service{{{JOB},device="d1"}}': "1x200",
    f'qianyan_hsm_refused_keys{{{JOB},device="d0"}}': "0x200",
    f'qianyan_hsm_abandoned_calls{{{JOB},device="d0"}}': "0x200",
    f"qianyan_audit_uncovered_seconds{{{JOB}}}": "30x200",
    f"qianyan_crl_files_failing{{{JOB}}}": "0x200",
    f'qianyan_crl_visible_seconds_bucket{{{JOB},channel="crl",le="300"}}': "0+10x200",
    f'qianyan_crl_visible_seconds_bucket{{{JOB},channel="crl",le="3600"}}': "0+10x200",
    f'qianyan_crl_visible_seconds_bucket{{{JOB},channel="crl",le="+Inf"}}': "0+10x200",
    f'qianyan_directory_leading{{{JOB},target="main",worker="0"}}': "1x200",
    f'qianyan_directory_leading{{{JOB},target="main",worker="1"}}': "0x200",
    f'qianyan_directory_lag_seconds{{{JOB},target="main",worker="0"}}': "5x200",
    f'qianyan_directory_lag_seconds{{{JOB},target="main",worker="1"}}': "99999x200",
    f'qianyan_directory_aside{{{JOB},target="main"}}': "0x200",
    f"qianyan_redis_breaker{{{JOB}}}": "0x200",
    f'qianyan_redis_lookups_total{{{JOB},outcome="rejected"}}': "0x200",
    f'qianyan_redis_lookups_total{{{JOB},outcome="hit"}}': "0+9x200",
    f"qianyan_disk_free_bytes{{{JOB}}}": "50x200",
    f"qianyan_disk_size_bytes{{{JOB}}}": "100x200",
}

#: What has to change, and which alerts ring seventy minutes later (before: none).
TROUBLE: dict[str, tuple[dict[str, str], set[str]]] = {
    "crl late": ({"qianyan_crl_seconds_left{": "71000x200"}, {"QianyanCrlLate"}),
    "crl expiring": ({"qianyan_crl_seconds_left{": "28000x200"}, {"QianyanCrlLate", "QianyanCrlExpiring"}),
    "crl missing": ({"qianyan_crl_missing{": "1x200"}, {"QianyanCrlMissing"}),
    "builds fail": ({f'qianyan_crl_builds_total{{{JOB},outcome="refused"}}': "0+1x200"}, {"QianyanCrlBuildsFail"}),
    "set late": ({"qianyan_status_set_seconds_left{": "7000x200"}, {"QianyanStatusSetLate"}),
    "set missing": ({"qianyan_status_set_missing{": "1x200"}, {"QianyanStatusSetMissing"}),
    "set wrong": ({"qianyan_status_set_judged_wrong{": "1x200"}, {"QianyanStatusSetJudgedWrong"}),
    "feed stalled": ({"qianyan_feed_age_seconds{": "6x200"}, {"QianyanFeedStalled"}),
    "one behind": ({f'qianyan_feed_position{{{JOB},worker="1"}}': "98+9x200"}, {"QianyanFeedBehind"}),
    "partitions": ({"qianyan_store_partition_years_ahead{": "0x200"}, {"QianyanPartitionsMissing"}),
    "replica": ({"qianyan_replica_lag_seconds{": "6x200"}, {"QianyanReplicaLag"}),
    "down": ({"up{": "0x200"}, {"QianyanDown"}),
    "absent": ({"up{": ""}, {"QianyanAbsent"}),
    "check": ({"qianyan_check_ok{": "0x200"}, {"QianyanCheckFails"}),
    "probe": ({"qianyan_ocsp_probe_ok{": "0x200"}, {"QianyanOcspNotAnswering"}),
    "ocsp errors": ({f'qianyan_ocsp_requests_total{{{JOB},result="busy"}}': "0+20x200"}, {"QianyanOcspErrors"}),
    "5xx": (
        {f'qianyan_http_requests_total{{{JOB},listener="public",route="/ocsp",status="503"}}': "0+20x200"},
        {"QianyanErrors"},
    ),
    "slow": (
        {f'qianyan_http_request_seconds_bucket{{{JOB},listener="public",route="/ocsp",le="1.0"}}': "0+900x200"},
        {"QianyanSlow"},
    ),
    "queue": ({f'qianyan_sign_refusals_total{{{JOB},code="sign_queue"}}': "0+1x200"}, {"QianyanSignQueueFull"}),
    "signing": ({f'qianyan_sign_refusals_total{{{JOB},code="sign_failed"}}': "0+5x200"}, {"QianyanSigningFails"}),
    "worker down": ({"qianyan_worker_up{": "0x200"}, {"QianyanWorkerDown"}),
    "worker lost": ({"qianyan_worker_restarts{": "3x65 4x130"}, {"QianyanWorkerLost"}),
    "restarts": ({"process_start_time_seconds{": "0+1x200"}, {"QianyanRestarts"}),
    "stuck": ({"qianyan_watch_timestamp_seconds{": "0+60x60 3600x140"}, {"QianyanWatchStalled"}),
    "refused": (
        {f'qianyan_connections_closed_total{{{JOB},listener="public",reason="refused"}}': "0+1x200"},
        {"QianyanConnectionsRefused"},
    ),
    "files": ({"process_open_fds{": "900x200"}, {"QianyanFilesRunOut"}),
    "guessing": ({"qianyan_credentials_refused_total{": "0+20x200"}, {"QianyanCredentialsGuessed"}),
    "clock behind": ({"qianyan_clock_behind_seconds{": "2x200"}, {"QianyanClockBehind"}),
    "clock ahead": ({"qianyan_watch_timestamp_seconds{": "10+60x200"}, {"QianyanClockAhead"}),
    "signer": ({"qianyan_ocsp_signer_seconds_left{": "1700000x200"}, {"QianyanOcspSignerExpires"}),
    "signer soon": (
        {"qianyan_ocsp_signer_seconds_left{": "250000x200"},
        {"QianyanOcspSignerExpires", "QianyanOcspSignerExpiresSoon"},
    ),
    "set signer": ({"qianyan_status_set_signer_seconds_left{": "1700000x200"}, {"QianyanSetSignerExpires"}),
    "tls": ({"qianyan_tls_certificate_seconds_left{": "1800000x200"}, {"QianyanTlsCertificateExpires"}),
    "tls soon": (
        {"qianyan_tls_certificate_seconds_left{": "250000x200"},
        {"QianyanTlsCertificateExpires", "QianyanTlsCertificateExpiresSoon"},
    ),
    "authority": ({"qianyan_authority_seconds_left{": "9999999x200"}, {"QianyanAuthorityExpires"}),
    "device": ({f'qianyan_hsm_in_service{{{JOB},device="d0"}}': "0x200"}, {"QianyanHsmDeviceOut"}),
    "devices": ({"qianyan_hsm_in_service{": "0x200"}, {"QianyanHsmDeviceOut", "QianyanHsmAllOut"}),
    "device keys": ({"qianyan_hsm_refused_keys{": "1x200"}, {"QianyanHsmRefusesKeys"}),
    "device calls": ({"qianyan_hsm_abandoned_calls{": "1x200"}, {"QianyanHsmCallsLost"}),
    "centre": ({f'qianyan_kmc_centre_open{{{JOB},centre="province"}}': "1x200"}, {"QianyanKmcCentreOut"}),
    "ends": (
        {f'qianyan_kmc_centre_keys{{{JOB},centre="province",state="ending"}}': "3x200"},
        {"QianyanKmcKeysNotEnded"},
    ),
    "audit": ({"qianyan_audit_uncovered_seconds{": "1000x200"}, {"QianyanAuditUncovered"}),
    "crl files": ({"qianyan_crl_files_failing{": "1x200"}, {"QianyanCrlFilesFail"}),
    "revocations slow": (
        {f'qianyan_crl_visible_seconds_bucket{{{JOB},channel="crl",le="300"}}': "0+9x200"},
        {"QianyanRevocationsSlow"},
    ),
    "directory late": (
        {f'qianyan_directory_lag_seconds{{{JOB},target="main",worker="0"}}': "1000x200"},
        {"QianyanDirectoryLate"},
    ),
    "directory very late": (
        {f'qianyan_directory_lag_seconds{{{JOB},target="main",worker="0"}}': "30000x200"},
        {"QianyanDirectoryLate", "QianyanDirectoryVeryLate"},
    ),
    "directory refuses": ({"qianyan_directory_aside{": "1x200"}, {"QianyanDirectoryRefuses"}),
    "redis down": ({"qianyan_redis_breaker{": "2x200"}, {"QianyanRedisDown"}),
    "redis lies": (
        {f'qianyan_redis_lookups_total{{{JOB},outcome="rejected"}}': "0x65 1x130"},
        {"QianyanRedisLies"},
    ),
    "disk fills": ({"qianyan_disk_free_bytes{": "14x200"}, {"QianyanDiskFills"}),
    "disk will fill": ({"qianyan_disk_free_bytes{": "60-0.1x200"}, {"QianyanDiskFills"}),
    "disk full": ({"qianyan_disk_free_bytes{": "4x200"}, {"QianyanDiskFills", "QianyanDiskFull"}),
}


def with_changes(changes: dict[str, str]) -> dict[str, str]:
    """The healthy series with some changed: one by its whole name, or all of a metric."""
    made = dict(HEALTHY)
    for name, values in changes.items():
        found = [series for series in HEALTHY if series.startswith(name)] or [name]
        for series in found:
            made[series] = values
    return {series: values for series, values in made.items() if values}


def test_each_alert_rings_when_it_should_and_no_other(tmp_path: Path) -> None:
    known = {rule["alert"] for rule in alerts()}
    assert set().union(*(ringing for _, ringing in TROUBLE.values())) == known, "an alert without a test"
    tests = [
        {
            "interval": "1m",
            "name": name,
            "input_series": [{"series": s, "values": values} for s, values in with_changes(changes).items()],
            "promql_expr_test": [
                {
                    "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "70m",
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(ringing)],
                }
            ],
        }
        for name, (changes, ringing) in [*TROUBLE.items(), ("all well", ({}, set()))]
    ]
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "2m", "tests": tests}))
    ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_promtool_accepts_rules_and_example() -> None:
    for arguments in (["check", "rules", RULES], ["check", "config", "--syntax-only", MONITORING / "prometheus.yml"]):
        ran = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), alert["alert"]
        assert alert["annotations"]["summary"], alert["alert"]
        file, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert file == "docs/operations.md"
        assert anchor in anchors, f"docs/operations.md has no section {anchor}"
    ours = {alert["annotations"]["runbook"].partition("#")[2] for alert in alerts()}
    told = {anchor for anchor in anchors if anchor.startswith("qianyan") and "-" not in anchor}
    assert told <= ours, f"docs/operations.md tells of alerts that there are none of: {told - ours}"


# ---- the dashboard


def test_the_dashboard_has_the_shape_that_grafana_reads() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["schemaVersion"] >= 36
    assert board["uid"] == "qianyan"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "stat")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables, target["expr"]
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert {"Freshness", "OCSP", "Signing and verification", "Issuance", "Hardware modules", "Processes"} <= set(rows)
