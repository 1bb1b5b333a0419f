"""What is reported: figures with their goals, and tables of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.console import say
from benchmarks.measuring import Series, ratio

_CPU = ("CPU µs a call in the server", "in the load generator")


@dataclass(frozen=True)
class Figure:
    """One number against its goal: `at_least` or `at_most`."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    spread: str = ""

    @property
    def goal(self) -> str:
        """The goal in words."""
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.at_most is not None and self.value <= self.at_most

    def line(self) -> str:
        """As `make bench-quick` prints it."""
        return f"{self.name}: {self.value:.3g} (goal {self.goal})"


@dataclass
class Report:
    """Everything that a run has found so far."""

    figures: list[Figure] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)

    def add(self, figure: Figure) -> None:
        """Note a figure and print it."""
        self.figures.append(figure)
        say(figure.line())

    def compare(self, found: Mapping[str, Series], name: str, bound: str, figure: str, *, at_least: float) -> None:
        """The ratio of two contenders as a figure."""
        against = ratio(found, name, bound)
        spread = f"[{against.lowest:.2f}-{against.highest:.2f}]"
        self.add(Figure(figure, against.median, at_least=at_least, spread=spread))

    def rates(self, title: str, found: Mapping[str, Series], bound: str) -> None:
        """A table of contenders: calls a second, ratio to the bound, latencies, processor time."""
        rows = [["", "calls a second", f"of {bound}", "p50 ms", "p99 ms", *_CPU]]
        for name, series in found.items():
            timed = series.median("p50_ms") > 0
            rows.append(
                [
                    name,
                    f"{series.median():,.0f}",
                    str(ratio(found, name, bound)),
                    f"{series.median('p50_ms'):.2f}" if timed else "-",
                    f"{series.median('p99_ms'):.2f}" if timed else "-",
                    f"{series.median('cpu_us'):.0f}" if timed else "-",
                    f"{series.median('load_us'):.0f}" if timed else "-",
                ]
            )
        self.tables[title] = rows
