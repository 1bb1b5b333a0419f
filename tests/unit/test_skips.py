"""A skip is a line in the summary on a machine of one's own, and a failure in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TESTS = """
import pytest

@pytest.fixture
def absent():
    pytest.skip("the mirror is away")

def test_skipped(absent):
    pass

@pytest.mark.skipif(True, reason="only root does this")
def test_skipped_by_mark():
    pass

@pytest.mark.xfail
def test_known():
    raise ValueError

def test_passed():
    pass
"""


@pytest.mark.parametrize(
    ("ci", "summary"), [("", "1 passed, 2 skipped, 1 xfailed"), ("true", "1 passed, 1 xfailed, 2 errors")]
)
def test_skips(tmp_path: Path, ci: str, summary: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-ra",
            "-p",
            "tests.fixtures.skips",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            ".",
            ".",
        ],
        cwd=tmp_path,
        env=os.environ | {"CI": ci, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert summary in done.stdout
    assert done.returncode == bool(ci)
    assert "the mirror is away" in done.stdout
    assert "only root does this" in done.stdout
