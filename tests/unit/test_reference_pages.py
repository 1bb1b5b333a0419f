"""The pages that are written from the code say what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest

from image_registry import errors, limits

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize(
    ("module", "page"), [("errors", "errors"), ("limits", "limits"), ("telemetry.catalogue", "metrics")]
)
def test_the_committed_page_is_the_written_one(module: str, page: str) -> None:
    written = subprocess.run(
        [sys.executable, "-m", f"image_registry.{module}"], capture_output=True, text=True, check=True
    ).stdout
    assert written == (REFERENCE / f"{page}.md").read_text(), "run make generate"


def test_every_reason_is_in_the_catalogue_with_a_sentence_each() -> None:
    rows = errors.catalogue_page().splitlines()
    for reason in errors.Reason:
        [row] = [row for row in rows if row.startswith(f"| `{reason.name}` |")]
        assert row == f"| `{reason.name}` | {reason.kind.name} | {reason.when} | {reason.remedy} |"
        assert reason.when.endswith(".")
        assert reason.remedy.endswith(".")


def test_every_limit_is_documented_once() -> None:
    constants = {value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    assert constants == {one.value for one in limits.CATALOGUE}
    assert len({one.what for one in limits.CATALOGUE}) == len(limits.CATALOGUE)
    for one in limits.CATALOGUE:
        assert f"| {one.what} | {one.value:,} {one.unit} | {one.beyond} |" in limits.page()
