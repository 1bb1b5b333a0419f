"""The dashboard has the form that Grafana publishes; Grafana itself is in no registry that a test can use."""

import shutil
import subprocess
from pathlib import Path

import pytest

DASHBOARD = Path(__file__).parents[3] / "deploy" / "monitoring" / "dashboard.json"
SCHEMA = Path(__file__).with_name("schema.ts")
PACKAGES = ("@grafana/schema@13.2.3", "typescript@5")
STRICT = ("--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext")

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.fail("npm is not installed: apt-get install npm")
    folder = tmp_path_factory.mktemp("grafana")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, *PACKAGES], check=True, capture_output=True
    )
    (folder / "schema.ts").write_text(SCHEMA.read_text())
    return folder


def faults(folder: Path, dashboard: str) -> list[str]:
    """What the compiler says of the text as a value of the schema's type."""
    (folder / "check.ts").write_text(
        f"import type {{ Dashboard }} from './schema.js';\nexport const checked: Dashboard = {dashboard};\n"
    )
    done = subprocess.run(
        [folder / "node_modules" / ".bin" / "tsc", *STRICT, "check.ts"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines()


def test_the_dashboard_fits(compiler: Path) -> None:
    assert faults(compiler, DASHBOARD.read_text()) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"legendFormat"', '"legendFromat"'),
        ('"showPoints": "never"', '"showPoints": "sometimes"'),
        ('"fillOpacity"', '"fillOpaque"'),
        ('"placement"', '"place"'),
        ('"type": "timeseries"', '"type": "graph"'),
        ('"h": 8', '"h": "8"'),
        ('"schemaVersion": 39', '"schemaVersion": "39"'),
    ],
)
def test_a_dashboard_with_a_mistake_does_not(compiler: Path, right: str, wrong: str) -> None:
    text = DASHBOARD.read_text()
    assert right in text
    assert faults(compiler, text.replace(right, wrong, 1))
