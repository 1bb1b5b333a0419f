"""Prometheus' own tool takes the alert rules and the scrape configuration, and the rules fire when they should."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / ".cache" / "prometheus" / "usr" / "bin" / "promtool"
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "alerts.yaml"
DAY = 86_400

pytestmark = pytest.mark.system


def promtool(*arguments: str | Path) -> str:
    """What it prints; it must be content."""
    tool = str(UNPACKED) if UNPACKED.exists() else shutil.which("promtool")
    if tool is None:
        pytest.fail("promtool is not here: make test-system unpacks it from Debian's package prometheus")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules() -> None:
    assert f"{RULES.read_text().count('- alert:')} rules found" in promtool("check", "rules", RULES)


def test_promtool_takes_the_scrape_configuration() -> None:
    assert "1 rule files found" in promtool("check", "config", MONITORING / "prometheus.yaml")


def test_certificates_are_told_of_two_weeks_before_their_end(tmp_path: Path) -> None:
    name, hours = "ImageRegistryCertificateExpires", 24 * 20
    server = 'image_registry_certificate_expiry_timestamp_seconds{instance="s",certificate="tls_certificate"}'
    gateway = 'envoy_server_days_until_first_cert_expiring{instance="g"}'
    none = 'envoy_server_days_until_first_cert_expiring{instance="without"}'
    series = [
        {"series": server, "values": f"{20 * DAY}x{hours}"},  # Prometheus' time begins at 0 here
        {"series": gateway, "values": " ".join(str(20 - hour // 24) for hour in range(hours))},
        {"series": none, "values": f"{2**32 - 1}x{hours}"},
    ]

    def at(hour: int, *instances: str) -> dict[str, object]:
        alerts = [{"exp_labels": {"severity": "ticket"} | labels} for labels in map(labels_of, instances)]
        return {"eval_time": f"{hour}h", "alertname": name, "exp_alerts": alerts}

    def labels_of(instance: str) -> dict[str, str]:
        return {"instance": instance} | ({"certificate": "tls_certificate"} if instance == "s" else {})

    checks = [at(24 * 5), at(24 * 6 + 3, "s"), at(24 * 7 + 3, "s", "g"), at(24 * 19, "s", "g")]
    test = {"interval": "1h", "input_series": series, "alert_rule_test": checks}
    annotated = yaml.safe_load(RULES.read_text())
    for rule in annotated["groups"][0]["rules"]:
        del rule["annotations"]  # their text isn't what is tested
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(annotated))
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": ["alerts.yaml"], "evaluation_interval": "1h", "tests": [test]})
    )
    promtool("test", "rules", tmp_path / "test.yaml")
