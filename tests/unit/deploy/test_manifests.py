"""The manifests fit their schemas, and the product: settings, commands, ports, files, times."""

import importlib
import json
import re
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml
from click import Context, Group, Parameter
from compose_spec import PyCompose

from image_registry.cli.main import cli
from image_registry.settings import PREFIX, SECRETS_DIR, Settings, load
from tests.unit.deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    compose,
    containers,
    documents,
    pods,
    resource,
    resources,
)

SETTINGS = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {SECRETS_DIR}
# The only package with KEDA's definitions brings a pytest plugin that needs more than it says. These fields were held
# against that package's models (KEDA 2.16) by hand, and the trigger's against the page of the PostgreSQL scaler.
KEDA: dict[str, dict[str, type]] = {
    "ScaledObject": {
        "scaleTargetRef": dict,
        "pollingInterval": int,
        "cooldownPeriod": int,
        "minReplicaCount": int,
        "maxReplicaCount": int,
        "triggers": list,
    },
    "TriggerAuthentication": {"secretTargetRef": list},
}
OURS = "image-registry"
METRICS = 9464
WATCHED = {"server", "worker", "gateway"}


def title(one: Any) -> str:
    return f"{one['kind']}-{one['metadata']['name']}"


@pytest.mark.parametrize("one", [one for one in resources() if one["kind"] not in KEDA], ids=title)
@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_kubernetes_knows_every_field(one: Any, version: str) -> None:
    kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("one", [one for one in resources() if one["kind"] in KEDA], ids=title)
def test_keda_knows_every_field(one: Any) -> None:
    assert one["apiVersion"] == "keda.sh/v1alpha1"
    assert {name: type(value) for name, value in one["spec"].items()}.items() <= KEDA[one["kind"]].items()
    for trigger in one["spec"].get("triggers", []):
        assert set(trigger) == {"type", "authenticationRef", "metadata"}
        assert set(trigger["metadata"]) == {"query", "targetQueryValue"}
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        authentication = resource("TriggerAuthentication", trigger["authenticationRef"]["name"])["spec"]
        for reference in authentication["secretTargetRef"]:
            assert set(reference) == {"parameter", "name", "key"}
            assert reference["key"] in resource("Secret", reference["name"])["stringData"]


def test_compose_knows_every_field() -> None:
    PyCompose.from_json(json.dumps(compose()))
    with pytest.raises(ValueError, match="servces"):
        PyCompose.from_json(json.dumps(compose() | {"servces": {}}))


def test_every_manifest_is_in_the_kustomization() -> None:
    there = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml", "secrets.example.yaml"}
    assert there == set(documents(KUBERNETES / "kustomization.yaml")[0]["resources"]) - {"../envoy"}
    for generator in documents(DEPLOY / "envoy" / "kustomization.yaml")[0]["configMapGenerator"]:
        assert all((DEPLOY / "envoy" / name).is_file() for name in generator["files"])


def test_every_setting_that_is_named_exists() -> None:
    for path in [*DEPLOY.glob("*.yaml"), *KUBERNETES.glob("*.yaml"), DEPLOY / "Containerfile"]:
        named = set(re.findall(rf"{PREFIX}[A-Z_]+(?=[:=,}} ])", path.read_text()))
        assert named - {f"{PREFIX}IMAGE"} <= SETTINGS, path.name


def test_files_of_secrets_are_settings() -> None:
    names = [name for name in compose()["secrets"] if name != "postgres_password"]
    names += [key for name in ("owner", "database") for key in resource("Secret", name)["stringData"]]
    assert {name.upper() for name in names} <= SETTINGS


def test_values_are_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    shared = resource("ConfigMap", "settings")["data"] | {SECRETS_DIR: str(tmp_path)}
    for _, container in containers():
        own = {entry["name"]: entry["value"] for entry in container.get("env", [])}
        with monkeypatch.context() as context:
            for name, value in (shared | own).items():
                context.setenv(name, value)
            load()


def test_commands_exist() -> None:
    context, group = Context(cli), cast("Group", cli)

    def parameters(name: str) -> list[Parameter]:
        command = group.get_command(context, name)
        assert command is not None, name
        return command.params

    for service in compose()["services"].values():
        if OURS in service["image"]:
            assert parameters(service["command"][0])
    for _, container in containers():
        if container["image"] == OURS:
            if "args" in container:
                options = {option for one in parameters(container["args"][0]) for option in one.opts}
                assert {word for word in container["args"][1:] if word.startswith("--")} <= options
            else:
                assert importlib.import_module(container["command"][2])


def test_ports_agree() -> None:
    envoy = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())["static_resources"]
    listens = envoy["listeners"][0]["address"]["socket_address"]["port_value"]
    endpoint = next(one for one in envoy["clusters"] if one["name"] == "servers")["load_assignment"]["endpoints"][0][
        "lb_endpoints"
    ][0]["endpoint"]
    upstream = endpoint["address"]["socket_address"]
    service = resource("Service", upstream["address"])
    assert [port["port"] for port in service["spec"]["ports"]] == [upstream["port_value"]]
    ports = {port["name"]: port["containerPort"] for _, one in containers() for port in one.get("ports", [])}
    assert ports == {"grpc": upstream["port_value"], "https": listens, "metrics": METRICS}
    allowed = {
        (name, rule["ports"][0]["port"])
        for name in ("server", "gateway")
        for rule in resource("NetworkPolicy", name)["spec"]["ingress"]
    }
    assert allowed == {("server", ports["grpc"]), ("gateway", ports["https"])}


def test_prometheus_finds_every_part_and_may_ask_it() -> None:
    settings = resource("ConfigMap", "settings")["data"]
    assert settings[f"{PREFIX}ADMIN_ADDRESS"] == f"0.0.0.0:{METRICS}"
    assert settings[f"{PREFIX}ADMIN_OPEN"] == "true"
    listeners = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())["static_resources"]["listeners"]
    assert [one["address"]["socket_address"]["port_value"] for one in listeners if one["name"] == "metrics"] == [
        METRICS
    ]
    annotated = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"].get("annotations")
        for one in resources()
        if one["kind"] == "Deployment"
    }
    wanted = {"prometheus.io/scrape": "true", "prometheus.io/port": str(METRICS), "prometheus.io/path": "/metrics"}
    assert annotated == dict.fromkeys(WATCHED, wanted)
    policy = resource("NetworkPolicy", "metrics")["spec"]
    assert set(policy["podSelector"]["matchExpressions"][0]["values"]) == WATCHED
    [rule] = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": METRICS}]
    assert all(list(sender) == ["namespaceSelector"] for sender in rule["from"]), "from Prometheus' namespace only"
    open_to_all = [
        port["port"]
        for one in resources()
        if one["kind"] == "NetworkPolicy"
        for rule in one["spec"].get("ingress", [])
        if "from" not in rule
        for port in rule["ports"]
    ]
    assert METRICS not in open_to_all


def test_a_collector_is_optional_and_may_be_reached() -> None:
    for name in ("server", "worker"):
        [container] = dict(pods())[name]["containers"]
        assert {"configMapRef": {"name": "telemetry", "optional": True}} in container["envFrom"]
    assert not [one for one in resources() if one["metadata"]["name"] == "telemetry" and one["kind"] == "ConfigMap"]
    policy = resource("NetworkPolicy", "telemetry")["spec"]
    assert set(policy["podSelector"]["matchExpressions"][0]["values"]) == WATCHED


def test_composes_prometheus_asks_every_part_where_it_answers() -> None:
    services = compose()["services"]
    [scraped] = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yaml").read_text())["scrape_configs"]
    [found] = scraped["dns_sd_configs"]
    assert (set(found["names"]), found["port"]) == (WATCHED, METRICS)
    for name in WATCHED:
        assert services[name]["environment"][f"{PREFIX}ADMIN_ADDRESS"] == f"0.0.0.0:{METRICS}"
        assert not any(str(METRICS) in port for port in services[name].get("ports", []))
    mounted = {volume.split(":")[0] for volume in services["prometheus"]["volumes"] if volume.startswith("./")}
    assert all((DEPLOY / path).is_file() for path in mounted)
    assert services["prometheus"]["profiles"] == ["monitoring"]


def test_envoy_finds_its_files() -> None:
    text = "".join(path.read_text() for path in [DEPLOY / "envoy" / "envoy.yaml", *DEPLOY.glob("envoy/secrets/*")])
    needed = set(re.findall(r"/etc/envoy/[\w./-]*\w", text))
    (envoy,) = (one for name, one in containers() if one["name"] == "envoy")
    mounts = [mount["mountPath"] for mount in envoy["volumeMounts"]]
    assert {path for path in needed if not any(f"{path}/".startswith(f"{mount}/") for mount in mounts)} == {
        path for path in needed if path == "/etc/envoy/secrets" and path not in mounts
    }
    projected = dict(pods())["gateway"]["volumes"][-1]["projected"]["sources"]
    given = {item["path"] for source in projected for item in source["secret"]["items"]}
    assert {path.rpartition("/")[2] for path in needed if path.startswith("/etc/envoy/certificates/")} <= given


def test_a_pod_has_time_to_leave() -> None:
    for name, pod in pods():
        for container in pod["containers"]:
            values = {entry["name"]: entry["value"] for entry in container.get("env", [])}
            needed = sum(float(values.get(f"{PREFIX}{time}", 0)) for time in ("SHUTDOWN_DELAY", "DRAIN_TIMEOUT"))
            if needed:
                assert pod["terminationGracePeriodSeconds"] >= needed + 5, name


def test_nobody_has_more_rights_than_it_needs() -> None:
    for name, pod in pods():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"], name
    for name, container in containers():
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True), name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert "memory" in container["resources"]["limits"], name
        assert not any("secretKeyRef" in entry.get("valueFrom", {}) for entry in container.get("env", [])), name


def test_no_build_reaches_the_metadata_service() -> None:
    for policy in (one for one in resources() if one["kind"] == "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            for block in (to["ipBlock"] for to in rule["to"] if "ipBlock" in to):
                left_out = {"0.0.0.0/0": "169.254.0.0/16", "::/0": "fc00::/7"}[block["cidr"]]
                assert left_out in block["except"], policy["metadata"]["name"]
