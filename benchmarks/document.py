"""Writes what was measured into docs/performance: the tables, a plot, and when and with what each part was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.results import Result

FOLDER = Path("docs/performance")
_BAR, _ROW, _NAMES = 420, 24, 460
_HOW = """Written by `python -m benchmarks` out of `results/`; what the figures mean, what misses its goal and why: see
[notes.md](notes.md). Servers, database and load generator share the machine, over loopback, with nothing pinned to a
core; where a row says so, control groups give each process of the server a share of one. A server of the product, a
canned one or a peer is one process unless its row says otherwise; Go uses every core. Commits are durable, names
vary, answers are checked; the canned answer is one of the product's, byte for byte. Medians of interleaved rounds;
ratios are taken within each round, with the lowest and the highest in brackets. Images have 60 libraries each."""


def write(results: Sequence[Result]) -> None:
    """README.md and goals.svg."""
    rows = [(_name(figure, result, results), figure) for result in results for figure in result.figures]
    (FOLDER / "goals.svg").write_text(_plot(rows), encoding="utf-8")
    sections = [
        "# Measured",
        _HOW,
        "## Goals",
        "![Figures against their goals](goals.svg)",
        _table([["figure", "value", "spread", "goal", ""], *(_goal_row(*row) for row in rows)]),
        "## When, and with what",
        _table(
            [
                ["part", "images", "UTC", "commit", "rounds", "load average at the end", "command"],
                *map(_circumstances, results),
            ]
        ),
        *_versions(results),
        *(
            f"## {_with_size(title, result)}\n\n{_table(rows)}"
            for result in results
            for title, rows in result.tables.items()
        ),
    ]
    (FOLDER / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def tables(found: dict[str, list[list[str]]]) -> str:
    """Everything beside the figures."""
    return "\n\n".join(f"## {title}\n\n{_table(rows)}" for title, rows in found.items())


def _circumstances(result: Result) -> list[str]:
    load = f"{result.load_average:.1f}"
    return [result.part, f"{result.images:,}", result.when, result.commit, result.effort, load, f"`{result.command}`"]


def _versions(results: Iterable[Result]) -> list[str]:
    """A line for each set of versions, with the parts that were measured with it."""
    by_versions = sorted(results, key=lambda result: result.versions)
    return [
        f"{', '.join(dict.fromkeys(result.part for result in group))}: {versions}"
        for versions, group in groupby(by_versions, key=lambda result: result.versions)
    ]


def _name(figure: Figure, result: Result, results: Iterable[Result]) -> str:
    """The figure's name, with the size of the registry where a part was measured at several."""
    sizes = sum(other.part == result.part for other in results)
    return figure.name if sizes == 1 else _with_size(figure.name, result)


def _with_size(title: str, result: Result) -> str:
    return title if "images" in title else f"{title}, {result.images:,} images"


def _goal_row(name: str, figure: Figure) -> list[str]:
    return [name, f"{figure.value:.3g}", figure.spread, figure.goal, "met" if figure.met else "**missed**"]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def _plot(figures: Sequence[tuple[str, Figure]]) -> str:
    """A bar for each figure: how far it is beyond its goal (1 is the goal, longer is better, cut at 2)."""
    bars = []
    for number, (name, figure) in enumerate(figures):
        reached = figure.value / figure.at_least if figure.at_least else (figure.at_most or 0) / max(figure.value, 1e-9)
        width, y = min(reached, 2) * _BAR / 2, 10 + number * _ROW
        colour = "#2a7" if figure.met else "#c53"
        bars.append(
            f'<text x="{_NAMES - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
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
