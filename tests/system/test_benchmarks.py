"""The benchmarks run: every part of the quick ones starts what it compares and gets the right answers from it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = "golang-go golang-google-grpc-dev golang-github-jackc-pgx-v4-dev"
SMALL = ["--quick", "--images", "1000", "--rounds", "1", "--seconds", "0.2"]

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    if shutil.which("go") is None:
        pytest.fail(f"go is not installed: apt-get install --no-install-recommends {PACKAGES}")


def run(*arguments: str) -> str:
    """Run them; what they say. Whether a figure reaches its goal is not asked here."""
    command = [sys.executable, "-m", "benchmarks", *SMALL, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "go/load" not in done.stdout
    return done.stdout


def test_the_quick_benchmarks() -> None:
    said = run("--tables")
    for figure in ("GetImage/canned, 64", "CreateImage/canned", "REST/gRPC", "ListImages: worst", "FindImages: worst"):
        assert re.search(rf"^{re.escape(figure)}.*: [0-9.e+]+ \(goal", said, re.MULTILINE), said
    assert "| product |" in said


def test_the_soak() -> None:
    said = run("--soak", "5")
    assert re.search(r"^failed calls in 5 s of full load: 0 ", said, re.MULTILINE), said
