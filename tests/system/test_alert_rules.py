"""Prometheus' own tool takes the alert rules."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / ".cache" / "prometheus" / "usr" / "bin" / "promtool"
RULES = ROOT / "deploy" / "monitoring" / "alerts.yaml"

pytestmark = pytest.mark.system


def test_promtool_takes_the_rules() -> None:
    tool = str(UNPACKED) if UNPACKED.exists() else shutil.which("promtool")
    if tool is None:
        pytest.fail("promtool is not here: make test-system unpacks it from Debian's package prometheus")
    command = [tool, "check", "rules", str(RULES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{RULES.read_text().count('- alert:')} rules found" in done.stdout
