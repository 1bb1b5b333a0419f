"""Alerts, dashboard and runbooks speak of metrics and labels that exist, and each alert has its entry."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from image_registry.errors import Reason
from image_registry.models import Outcome, Priority, TerminationReason
from image_registry.telemetry.catalogue import CATALOGUE, kind_of

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
FROM_PROMETHEUS = {"instance", "job", "le"}
ENDINGS = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
SHOWN = {one.name + ending: set(one.labels) for one in CATALOGUE for ending in ENDINGS[kind_of(one)]}
ENVOYS = {  # own statistics; tests/system/dashboard holds them against a real one
    "envoy_server_days_until_first_cert_expiring": set(),
    "envoy_http_downstream_rq_xx": {"envoy_response_code_class", "envoy_http_conn_manager_prefix"},
}
SHOWN |= ENVOYS
NAMES = rf"\b(?:image_registry_\w+|{'|'.join(ENVOYS)})\b"
VALUES = {
    "envoy_http_conn_manager_prefix": {"callers"},
    "reason": {one.name for one in Reason},
    "cause": {one.name.lower() for one in TerminationReason},
    "outcome": {one.value for one in Outcome},
    "priority": {one.name.lower() for one in Priority},
    "code": {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"},
    "part": {"server", "worker"},
    "result": {"hit", "miss"},
}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_targets() -> Iterator[tuple[str, str]]:
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]


EXPRESSIONS = [rule["expr"] for rule in alerts()] + [expression for expression, _ in dashboard_targets()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_name_metrics_labels_and_values_that_exist(expression: str) -> None:
    names = re.findall(NAMES, expression)
    assert names
    assert set(names) <= SHOWN.keys()
    known = set.union(*(SHOWN[name] for name in names)) | FROM_PROMETHEUS
    for grouping in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in grouping.split(",")} <= known
    for name, matchers in re.findall(rf"({NAMES})\{{([^}}]*)\}}", expression):
        for label, _, values in re.findall(r"(\w+)\s*(=~|!=|!~|=)\s*\"([^\"]*)\"", matchers):
            assert label in SHOWN[name]
            assert set(values.split("|")) <= VALUES[label]


def test_legends_and_summaries_use_labels_that_their_expressions_have() -> None:
    for expression, legend in dashboard_targets():
        grouped = re.findall(r"\bby \(([^)]*)\)", expression)
        kept = {label.strip() for part in grouped for label in part.split(",")} if grouped else None
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            names = re.findall(NAMES, expression)
            assert label in (kept if kept is not None else set.union(*(SHOWN[n] for n in names)) | FROM_PROMETHEUS)


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(expression for expression, _ in dashboard_targets())
    assert [one.name for one in CATALOGUE if one.name not in shown] == []


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    page = (ROOT / "docs" / "operations" / "runbooks.md").read_text()
    entries = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(entries) == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/operations/runbooks.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]
        for part in ("**Symptom**", "**Look at**", "**Do**"):
            assert part in entries[rule["alert"]]


def test_runbooks_name_settings_that_exist() -> None:
    known = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    for page in (ROOT / "docs" / "operations").glob("*.md"):
        for name in re.findall(r"IMAGE_REGISTRY_[A-Z_]+[A-Z]", page.read_text()):
            assert f"`{name}`" in known, f"{page.name}: {name}"
