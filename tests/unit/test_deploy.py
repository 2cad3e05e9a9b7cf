"""What lies in deploy/ fits together: schemas, flags, ports, probes, graces, names of metrics.

Nothing here has a cluster or a container engine; deploy/README.md says for each file what was run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from smartbatch.cli import app
from smartbatch.server.settings import ServerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
ROOT = DEPLOY.parent
KUBERNETES = DEPLOY / "kubernetes"
CORE = {"Deployment", "Service", "PodDisruptionBudget"}


def objects(name: str) -> dict[str, Any]:
    """A file's objects by kind."""
    found = {each["kind"]: each for each in yaml.safe_load_all((KUBERNETES / name).read_text(encoding="utf-8"))}
    assert found
    return found


@pytest.fixture
def deployment() -> dict[str, Any]:
    found: dict[str, Any] = objects("smartbatch.yaml")["Deployment"]["spec"]
    return found


def container(deployment: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in deployment["template"]["spec"]["containers"] if c["name"] == name)
    return found


def options_of(arguments: list[str]) -> dict[str, Any]:
    """What `smartbatch` understands by them."""
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, arguments[0])
    with command.make_context(arguments[0], list(arguments[1:])) as context:
        found: dict[str, Any] = context.params
        return found


@pytest.mark.parametrize("version", ["1.29", "1.33", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", sorted(CORE))
def test_kubernetes_knows_every_field(kind: str, version: str) -> None:
    kubernetes_validate.validate(objects("smartbatch.yaml")[kind], version, strict=True)


def test_the_server_stays_on_loopback_and_takes_its_flags(deployment: dict[str, Any], tmp_path: Path) -> None:
    server = container(deployment, "smartbatch")
    options = options_of(server["args"])
    assert options["host"] in (None, "127.0.0.1")
    assert options["management_host"] in (None, "127.0.0.1")
    assert options["metrics_host"] == "0.0.0.0"
    ServerSettings(model_store=tmp_path, metrics_host=options["metrics_host"])  # asks for no token
    assert [port["containerPort"] for port in server["ports"]] == [options["metrics_port"] or 8082]
    assert options["model_store"].as_posix() in {mount["mountPath"] for mount in server["volumeMounts"]}


def test_probes_ask_the_proxy_for_what_it_lets_through(deployment: dict[str, Any]) -> None:
    proxy = container(deployment, "haproxy")
    (port,) = (port["containerPort"] for port in proxy["ports"])
    variables = {variable["name"]: variable["value"] for variable in proxy["env"]}
    assert variables == {"BIND": f"0.0.0.0:{port}", "SMARTBATCH": "127.0.0.1:8080"}
    config = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)\}", config)) == set(variables)
    (health,) = re.findall(r"acl is_health path (.*)", config)
    server = container(deployment, "smartbatch")
    for probe, path in {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}.items():
        assert server[probe]["httpGet"] == {"path": path, "port": port}
        assert path in health.split()


def test_a_pod_has_time_to_answer_what_it_accepted(deployment: dict[str, Any]) -> None:
    server = container(deployment, "smartbatch")
    shell = server["lifecycle"]["preStop"]["exec"]["command"][-1]
    pause_s, command = re.fullmatch(r"sleep (\d+); exec smartbatch (.*)", shell).groups()  # type: ignore[union-attr]
    grace_s = options_of(command.split())["grace"]
    assert options_of(server["args"])["grace"] == grace_s
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] >= int(pause_s) + grace_s + 60
    (proxy_s,) = container(deployment, "haproxy")["lifecycle"]["preStop"]["exec"]["command"][1:]
    assert int(proxy_s) > int(pause_s) + grace_s


def test_selectors_select_the_pods_and_ports_have_names(deployment: dict[str, Any]) -> None:
    found = objects("smartbatch.yaml")
    pod = deployment["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    names = {port["name"] for each in pod["spec"]["containers"] for port in each["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == names
    monitor = objects("monitoring.yaml")["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= found["Service"]["metadata"]["labels"].items()
    assert {each["port"] for each in monitor["endpoints"]} <= {p["name"] for p in found["Service"]["spec"]["ports"]}
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    all_containers = pod["spec"]["containers"] + pod["spec"]["initContainers"]
    assert {mount["name"] for each in all_containers for mount in each["volumeMounts"]} == volumes
    for each in all_containers:
        assert each["securityContext"]["readOnlyRootFilesystem"]


def test_it_scales_on_a_metric_that_there_is() -> None:
    found = objects("scaling.yaml")["ScaledObject"]["spec"]
    assert found["scaleTargetRef"]["name"] == objects("smartbatch.yaml")["Deployment"]["metadata"]["name"]
    (trigger,) = found["triggers"]
    (metric,) = re.findall(r"smartbatch_\w+", trigger["metadata"]["query"])
    assert f"| `{metric}` | gauge | `model`" in (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_kserves_runtime_takes_its_flags() -> None:
    found = objects("kserve.yaml")
    (server,) = found["ServingRuntime"]["spec"]["containers"]
    assert server["name"] == "kserve-container"  # the one that gets the model and the requests
    options = options_of(server["args"])
    assert options["model_store"].as_posix() == "/mnt/models"
    assert options["host"] in (None, "127.0.0.1")
    predictor = found["InferenceService"]["spec"]["predictor"]
    assert predictor["model"]["runtime"] == found["ServingRuntime"]["metadata"]["name"]
    assert predictor["timeout"] > options["grace"]


def test_the_image_copies_and_runs_what_there_is() -> None:
    lines = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    let_through = [
        line[1:]
        for line in (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    for name in let_through:
        assert (ROOT / name).exists(), name
    for copied in re.findall(r"^COPY (deploy\S+)", "\n".join(lines), re.MULTILINE):
        assert copied in let_through
    (command,) = (yaml.safe_load(line.removeprefix("CMD")) for line in lines if line.startswith("CMD"))
    assert options_of(command)["model_store"] == Path("/models")
    (entry,) = (yaml.safe_load(line.removeprefix("ENTRYPOINT")) for line in lines if line.startswith("ENTRYPOINT"))
    assert entry == ["smartbatch"]
